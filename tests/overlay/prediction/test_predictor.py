"""A model in Python."""

import io
import subprocess
import sys
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from overlay import load_model
from overlay.config import Legacy, OverlayStyle
from overlay.engines.factory import open_engine, prepare_engine
from overlay.errors import RequestError
from overlay.images.codec import decode_image
from overlay.images.ref import ImageRef
from overlay.images.resize import decode_target, reduce_image, resize_image
from overlay.models import model_file
from overlay.prediction.predictor import ImageInput, MaskInput, Prediction
from overlay.sources.decode import decode_ref
from overlay.sources.reader import read_bytes

CARD = model_file.ModelCard(
    *("resnet18", ("a", "b", "c"), 32, "crop", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), None, "", "", ""),
    uncertain_below=0.9,
    positive="b",
    threshold=0.4,
)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("run") / model_file.MODEL_FILE
    model_file.save_model_file(path, OrderedDict(torchvision.models.resnet18(num_classes=3).state_dict()), CARD)
    return path


def test_images_of_all_kinds_are_classified_as_the_job_does(file: Path, phantoms: Path) -> None:
    path = phantoms / "benign" / "benign (1).png"
    data = path.read_bytes()
    with Image.open(path) as opened:
        picture = opened.copy()
    pixels = resize_image(decode_image(data, target=decode_target(32, "crop")), 32, "crop")
    engine = open_engine(prepare_engine(model_file.load_model_file(file), "torch", "cpu", "fp32"), batch_size=32)
    expected = engine(pixels[None]).probabilities[0]
    predictor = load_model(file.parent, engine="torch", precision="fp32")
    assert (predictor.precision, predictor.card) == ("fp32", CARD)
    found = predictor.predict([path, str(path), data, picture, decode_image(data)])
    assert len(found) == 5
    for one in found:
        assert list(one.probabilities) == ["a", "b", "c"]
        np.testing.assert_allclose(list(one.probabilities.values()), expected, atol=1e-6, rtol=0)
        assert one.label == "abc"[int(expected.argmax())]
        assert one.confidence == max(one.probabilities.values())
        assert (one.uncertain, one.error) == (one.confidence < 0.9, None)
        assert one.flag == (one.probabilities["b"] >= 0.4)


def test_inputs_are_reduced_as_the_training_images_were(file: Path, phantoms: Path, tmp_path: Path) -> None:
    loaded = model_file.load_model_file(file)
    model_file.save_model_file(tmp_path / "m.pth", loaded.state, replace(loaded.card, max_side=48))
    path = phantoms / "benign" / "benign (1).png"
    pixels = decode_image(path.read_bytes())
    predictors = [load_model(each, engine="torch", precision="fp32") for each in (tmp_path / "m.pth", file)]
    by_path, by_pixels = predictors[0].predict([path, pixels])
    (expected,) = predictors[1].predict([reduce_image(pixels, 48)])
    assert by_path == by_pixels == expected
    assert predictors[1].predict([pixels])[0].probabilities != expected.probabilities


def test_a_large_jpeg_of_pillow_is_decoded_as_its_file(file: Path, tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    large = Image.fromarray(values).resize((960, 640), Image.Resampling.BICUBIC)
    large.save(tmp_path / "x.jpg", quality=80)
    predictor = load_model(file, engine="torch", precision="fp32")
    expected = predictor.predict([tmp_path / "x.jpg"])
    with Image.open(tmp_path / "x.jpg") as opened:
        assert predictor.predict([opened]) == expected
        assert predictor.predict([opened]) == expected  # it was not loaded by the first call
        assert opened.size == (960, 640)
        opened.load()  # nor was its stream left at another place
    with Image.open(io.BytesIO((tmp_path / "x.jpg").read_bytes())) as opened:
        assert predictor.predict([opened]) == expected
    cut = io.BytesIO((tmp_path / "x.jpg").read_bytes()[:2000])
    with Image.open(cut) as opened:
        assert (predictor.predict([opened])[0].error or "").startswith("damaged JPEG: ")
    with Image.open(tmp_path / "x.jpg") as opened:
        said = "too many pixels: 960 x 640, more than 100 (max_pixels)"
        assert predictor.predict([opened], max_pixels=100) == [Prediction(error=said)]


def test_masks_are_drawn_as_the_job_draws_them(tmp_path: Path) -> None:
    torch.manual_seed(0)
    state = OrderedDict(torchvision.models.resnet18(num_classes=3).state_dict())
    model_file.save_model_file(tmp_path / "m.pth", state, replace(CARD, overlay=OverlayStyle()))
    predictor = load_model(tmp_path / "m.pth", engine="torch", precision="fp32")
    image = np.random.default_rng(0).integers(0, 256, (50, 60, 3), np.uint8)
    one, two = np.zeros((50, 60), bool), np.zeros((50, 60), bool)
    one[5:20, 5:30], two[30:45, 10:40] = True, True
    Image.fromarray(image).save(tmp_path / "x.png")
    for name, mask in (("x_mask.png", one), ("x_mask_1.png", two)):
        Image.fromarray(mask).save(tmp_path / name)
    names = [str(tmp_path / name) for name in ("x_mask.png", "x_mask_1.png")]
    ref = ImageRef(str(tmp_path / "x.png"), str(tmp_path / "x.png"), masks=tuple(names))
    expected = predictor._engine(decode_ref(ref, predictor.card, 10_000, read_bytes)[None]).probabilities[0]
    data = (tmp_path / "x_mask_1.png").read_bytes()
    with Image.open(names[0]) as opened:
        given: list[MaskInput] = [one, np.uint8(255) * one, opened, Image.fromarray(one), Path(names[0])]
        kinds: list[ImageInput] = [image, tmp_path / "x.png", Image.fromarray(image)]
        for kind in kinds:
            found = predictor.predict([kind] * len(given), [(each, data) for each in given])
            for each in found:
                np.testing.assert_allclose(list(each.probabilities.values()), expected, atol=1e-6, rtol=0)
    with pytest.warns(UserWarning, match=r"1 of these 2 have no mask: what it says of bare images was never measured"):
        bare = predictor.predict([image, image], [one, None])
    assert bare[0].probabilities != bare[1].probabilities
    assert predictor.predict([image], [one[:-1]])[0].error == (
        "mask of another size: <1> has 60 x 49 pixels, its image 60 x 50"
    )
    with pytest.raises(RequestError, match=r"^there are 2 masks for 1 images; give one entry for each, None for none$"):
        predictor.predict([image], [one, one])
    with pytest.raises(RequestError, match=r"^a mask is float64 \(50, 60\); an array must be uint8 or bool"):
        predictor.predict([image], [one.astype(float)])


def test_what_can_t_be_decoded_has_a_reason_in_its_place(file: Path, tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.new("I;16", (40, 50), 30_000).save(stream, "PNG")
    found = load_model(file, engine="torch").predict([b"no image", stream.getvalue(), tmp_path / "none.png"])
    assert found[0] == Prediction(error="no image that can be read, by its content")
    assert found[1].label is not None
    assert found[2] == Prediction(error="file that can't be read: No such file or directory")
    assert load_model(file, engine="torch").predict([]) == []


def test_wrong_requests_are_refused(file: Path, tmp_path: Path) -> None:
    predictor = load_model(file, engine="torch")
    for image, message in (
        (np.zeros((4, 4, 3)), "an image is float64 (4, 4, 3); an array must be uint8 (height, width, 3)"),
        (np.zeros((4, 4), np.uint8), "an image is uint8 (4, 4); an array must be uint8 (height, width, 3)"),
        (3, "an image is a int; give a path, bytes, a Pillow image or an array"),
    ):
        with pytest.raises(RequestError) as refused:
            predictor.predict([image])  # type: ignore[list-item]
        assert str(refused.value) == message
    with pytest.raises(RequestError, match="no weights at"):
        load_model(tmp_path / "none.pth")
    with pytest.raises(RequestError, match="there are no images to calibrate it with"):
        load_model(file, precision="int8")


def test_files_of_other_programs_are_loaded_too(tmp_path: Path) -> None:
    torch.save(torchvision.models.resnet18(num_classes=2), tmp_path / "m.pth")
    predictor = load_model(tmp_path / "m.pth", engine="torch", legacy=Legacy(classes="x,y", size=64))
    assert predictor.card == model_file.load_model_file(tmp_path / "m.pth", Legacy(classes="x,y", size=64)).card
    assert predictor.card.classes == ("x", "y")


def test_importing_the_package_is_light() -> None:
    program = "import sys, overlay; print({'torch', 'numpy', 'PIL', 'ray', 'overlay.config'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_apple_s_gpus_are_refused_by_name(file: Path) -> None:
    with pytest.raises(RequestError, match=r"^device is mps; choose cpu or cuda \(mps is refused: "):
        load_model(file, device="mps")  # type: ignore[arg-type]
