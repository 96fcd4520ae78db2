"""Models for other programs."""

import json
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pyarrow.parquet as pq
import pytest
import torch
import torchvision
from PIL import Image

from overlay import load_model
from overlay.config import Calibration, Export, Legacy, Predict
from overlay.engines import export
from overlay.engines.factory import open_engine, prepare_engine
from overlay.errors import RequestError, WorkError
from overlay.models import model_file
from overlay.models.calibrated_model import calibrate_model, divide_head, temper_probabilities
from overlay.models.network import normalise
from overlay.storage.atomic import write_atomically
from overlay.storage.path import StoragePath
from pipelines import predict
from pipelines.export import run

CARD = model_file.ModelCard(
    "resnet18", ("a", "b", "c"), 64, "pad", (0.5, 0.4, 0.3), (0.25, 0.5, 0.75), None, "", "", ""
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    network = torchvision.models.resnet18(num_classes=3)
    with torch.no_grad():
        network(torch.randn(8, 3, 64, 64))
    run_folder = tmp_path_factory.mktemp("run")
    model_file.save_model_file(run_folder / model_file.MODEL_FILE, OrderedDict(network.state_dict()), CARD)
    return run_folder


def test_safetensors_is_a_model_file_again(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(Export(str(folder), "safetensors"))
    out = folder / "Resnet_fineTuning.safetensors"
    assert capsys.readouterr().out == f"{out}: probabilities differ by at most 0.0e+00 from the model's\n"
    assert model_file.load_model_file(out).card == CARD
    image = np.random.default_rng(0).integers(0, 256, (80, 70, 3), np.uint8)
    before, after = (load_model(path, engine="torch").predict([image]) for path in (folder, out))
    assert before == after


def test_an_export_in_a_bucket(folder: Path, new_bucket: Callable[[], str]) -> None:
    there = StoragePath.of(new_bucket()) / "run"
    with write_atomically(there / model_file.MODEL_FILE) as temporary:
        temporary.write_bytes((folder / model_file.MODEL_FILE).read_bytes())
    run(Export(str(there), "safetensors"))
    assert model_file.load_model_file(there / "Resnet_fineTuning.safetensors").card == CARD
    with pytest.raises(RequestError, match="is there already; name another file, or delete it"):
        run(Export(str(there), "safetensors"))
    with pytest.raises(RequestError, match=r"doesn't end in \.onnx"):
        run(Export(str(there), "onnx", str(there / "m.pb")))


def test_onnx_takes_pixels_and_gives_probabilities(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.onnx"
    run(Export(str(folder), "onnx", str(out)))
    assert [file.name for file in tmp_path.iterdir()] == ["m.onnx"]
    session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
    (pixels,) = session.get_inputs()
    assert (pixels.name, pixels.type, pixels.shape[1:]) == ("pixels", "tensor(uint8)", [64, 64, 3])
    assert [output.name for output in session.get_outputs()] == ["probabilities", "embeddings"]
    loaded = model_file.load_model_file(folder)
    engine = open_engine(prepare_engine(loaded, "torch", "cpu", "fp32"))
    for images in (1, 7):
        batch = np.random.default_rng(images).integers(0, 256, (images, 64, 64, 3), np.uint8)
        probabilities, embeddings = session.run(None, {"pixels": batch})
        expected = engine(batch)
        np.testing.assert_allclose(probabilities, expected.probabilities, atol=1e-5, rtol=0)
        np.testing.assert_allclose(embeddings, expected.embeddings, atol=1e-4, rtol=0)
    texts = session.get_modelmeta().custom_metadata_map
    assert {name: texts[name] for name in ("classes", "size", "resize", "mean", "std")} == {
        "classes": "a,b,c",
        "size": "64",
        "resize": "pad",
        "mean": "(0.5, 0.4, 0.3)",
        "std": "(0.25, 0.5, 0.75)",
    }
    assert json.loads(texts["overlay"])["model"] == loaded.sha256


@pytest.mark.slow
def test_every_reader_of_a_calibrated_file_gives_the_same_probabilities(folder: Path, tmp_path: Path) -> None:
    """Plain torch and torchvision, ONNX Runtime, both engines and `overlay predict`: to 1e-4, and not as before."""
    before = model_file.load_model_file(folder)
    images = np.random.default_rng(0).integers(0, 256, (6, 64, 64, 3), np.uint8)
    uncalibrated = open_engine(prepare_engine(before, "torch", "cpu", "fp32"))(images).probabilities.astype(np.float64)
    # Each answer is wrong twice in seven: the network is much surer than that, once its logits are large.
    sharp = temper_probabilities(uncalibrated, 0.05)
    labels = np.tile(sharp.argmax(axis=1), 7)
    labels[: 2 * 6] = (labels[: 2 * 6] + 1) % 3
    state = divide_head(before.state, CARD, 0.05)
    positive = int(labels[-1])
    options = Calibration(positive=CARD.classes[positive])
    state, card = calibrate_model(state, CARD, options, labels, np.tile(sharp, (7, 1)))
    assert card.temperature > 1.5
    assert card.threshold is not None
    expected = temper_probabilities(sharp, card.temperature)
    assert np.abs(expected - sharp).max() > 0.01
    file = tmp_path / "m.pth"
    model_file.save_model_file(file, state, card)

    network = torchvision.models.resnet18(num_classes=3).eval()
    network.load_state_dict(torch.load(file, weights_only=True))
    with torch.inference_mode():
        normalised = normalise(torch.from_numpy(images), torch.tensor(CARD.mean), torch.tensor(CARD.std))
        found = {"torch": network(normalised).softmax(dim=1).numpy()}
    run(Export(str(file), "onnx"))
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    found["onnx"] = session.run(["probabilities"], {"pixels": images})[0]
    loaded = model_file.load_model_file(file)
    for kind in ("torch", "openvino"):
        found[f"engine {kind}"] = open_engine(prepare_engine(loaded, kind, "cpu", "fp32"))(images).probabilities
    (tmp_path / "images").mkdir()
    for number, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / "images" / f"{number}.png")
    predict.run(Predict(str(file), [str(tmp_path / "images")], str(tmp_path / "out"), precision="fp32"))
    rows = pq.read_table(tmp_path / "out" / "predictions")
    found["predict"] = np.stack([rows[f"prob_{name}"].to_numpy() for name in CARD.classes], axis=1)
    for name, probabilities in found.items():
        np.testing.assert_allclose(probabilities, expected, atol=1e-4, rtol=0, err_msg=name)
    assert rows["flag"].to_pylist() == (expected[:, positive] >= card.threshold).tolist()
    assert card.uncertain_below is not None
    assert rows["uncertain"].to_pylist() == (expected.max(axis=1) < card.uncertain_below).tolist()
    assert json.loads(session.get_modelmeta().custom_metadata_map["overlay"])["temperature"] == card.temperature


def test_a_model_of_another_program_gets_a_card(tmp_path: Path) -> None:
    network = torchvision.models.resnet18(num_classes=2)
    network.fc = torch.nn.Sequential(torch.nn.Linear(512, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    torch.save(network, tmp_path / "m.pth")
    run(Export(str(tmp_path / "m.pth"), "safetensors", legacy=Legacy(classes="x,y")))
    card = model_file.load_model_file(tmp_path / "m.safetensors").card
    assert (card.classes, card.head) == (("x", "y"), ("Linear(512, 4)", "ReLU()", "Linear(4, 2)"))


def test_wrong_requests_write_nothing(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "there.onnx").touch()
    for out, message in (("there.onnx", "is there already; name another"), ("m.pth", "doesn't end in .onnx, by which")):
        with pytest.raises(RequestError, match=message):
            run(Export(str(folder), "onnx", str(tmp_path / out)))
    assert [file.name for file in tmp_path.iterdir()] == ["there.onnx"]


def test_an_export_that_differs_is_not_left_there(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "LARGEST_DIFFERENCE", -1.0)
    with pytest.raises(WorkError, match="the export's probabilities differ by 0 from the model's; nothing was written"):
        run(Export(str(folder), "safetensors", str(tmp_path / "m.safetensors")))
    assert list(tmp_path.iterdir()) == []
