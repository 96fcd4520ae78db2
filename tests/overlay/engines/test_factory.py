"""Engines: the same numbers from all of them, whatever the batch."""

import importlib.util
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
import torchvision
from numpy.typing import NDArray

from overlay.config import BatchSize, EngineKind, Precision
from overlay.engines.base import Engine, EnginePlan, Forward, OpenVinoModel, ScoredBatch, ThreadLayout, score_rows
from overlay.engines.factory import open_engine, prepare_engine, prepare_engines, thread_layout
from overlay.errors import RequestError
from overlay.models import model_file
from overlay.models.device import has_bf16
from overlay.models.model_file import ModelFile
from overlay.models.network import normalise
from overlay.sources.decode import DecodedBatch

SIZE = 32
MEAN, STD = (0.5, 0.25, 0.125), (0.25, 0.5, 0.75)
PIXELS: NDArray[np.uint8] = np.random.default_rng(0).integers(0, 256, (13, SIZE, SIZE, 3), np.uint8)


def card(arch: str = "resnet18") -> model_file.ModelCard:
    return model_file.ModelCard(arch, ("a", "b", "c"), SIZE, "squash", MEAN, STD, None, "", "", "")


def decoded(reasons: list[str]) -> DecodedBatch:
    n = len(reasons)
    return {
        "row": np.arange(n),
        "pixels": PIXELS[:n],
        "reason": np.array(reasons),
        "error_kind": np.array(["damaged" if reason else "" for reason in reasons]),
        "bytes": np.full(n, 7),
        "seconds_read": np.zeros(n),
        "seconds_decode": np.zeros(n),
    }


@pytest.fixture(scope="module")
def file() -> ModelFile:
    torch.manual_seed(0)
    network = torchvision.models.resnet18(num_classes=3)
    with torch.no_grad():
        network(torch.randn(8, 3, SIZE, SIZE))  # the statistics of batch normalisation move away from 0 and 1
    return ModelFile("m.pth", OrderedDict(network.state_dict()), card(), sha256="")


@pytest.fixture(scope="module")
def plain(file: ModelFile) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Probabilities and embeddings of the network as torchvision has it."""
    network = model_file.build_network(file)
    head, network.fc = network.fc, torch.nn.Identity()
    with torch.inference_mode():
        embeddings = network(normalise(torch.from_numpy(PIXELS), torch.tensor(MEAN), torch.tensor(STD)))
        assert isinstance(head, torch.nn.Module)
        return head(embeddings).softmax(dim=1).numpy(), embeddings.numpy()


@pytest.fixture(scope="module")
def opened(file: ModelFile) -> Callable[..., Engine]:
    plans = {}

    def opening(kind: EngineKind, precision: Precision, batch_size: BatchSize = 8, flips: bool = False) -> Engine:
        if (kind, precision) not in plans:
            plans[kind, precision] = prepare_engine(
                file, kind, "cpu", precision, PIXELS if precision == "int8" else None
            )
        return open_engine(plans[kind, precision], batch_size=batch_size, flips=flips)

    return opening


@pytest.mark.parametrize(
    ("kind", "precision", "tolerance"),
    [("torch", "fp32", 1e-5), ("openvino", "fp32", 1e-5), ("torch", "bf16", 0.02), ("openvino", "bf16", 0.02)],
)
def test_an_engine_gives_the_network_s_numbers(
    kind: EngineKind,
    precision: Precision,
    tolerance: float,
    opened: Callable[..., Engine],
    plain: tuple[NDArray[np.float32], NDArray[np.float32]],
) -> None:
    engine = opened(kind, precision)
    scores = engine(PIXELS)
    # bf16 is a hint to OpenVINO, which computes in fp32 on a CPU without it.
    computed = precision if kind == "torch" or has_bf16(torch.device("cpu")) else "fp32"
    assert (engine.precision, engine.classes, engine.embedding_size) == (computed, 3, 512)
    for found, expected in zip((scores.probabilities, scores.embeddings), plain, strict=True):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=tolerance * max(1, np.abs(expected).max()), rtol=0)
    # One shape for all, so exactly the same whatever else is in the batch.
    for few in (1, 5, 12):
        np.testing.assert_array_equal(engine(PIXELS[:few]).probabilities, scores.probabilities[:few])
    assert engine(PIXELS[:0]).probabilities.shape == (0, 3)
    assert engine(PIXELS[:0]).embeddings.shape == (0, 512)
    for batch_size in (1, 32):
        other = opened(kind, precision, batch_size)(PIXELS)
        np.testing.assert_allclose(other.probabilities, scores.probabilities, atol=1e-6, rtol=0)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # inductor looks at old names of every module
@pytest.mark.slow
def test_a_compiled_network_gives_the_same(
    opened: Callable[..., Engine], plain: tuple[NDArray[np.float32], NDArray[np.float32]]
) -> None:
    engine = opened("compile", "fp32")
    np.testing.assert_allclose(engine(PIXELS).probabilities, plain[0], atol=1e-5, rtol=0)
    np.testing.assert_array_equal(engine(PIXELS[:3]).probabilities, engine(PIXELS).probabilities[:3])


@pytest.mark.slow
def test_int8_says_how_well_it_agrees(
    opened: Callable[..., Engine],
    plain: tuple[NDArray[np.float32], NDArray[np.float32]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    engine = opened("auto", "int8")
    assert engine.precision == "int8"
    assert "int8: the same label as fp32 on " in capsys.readouterr().out
    found = engine(PIXELS).probabilities
    np.testing.assert_allclose(found, plain[0], atol=0.1, rtol=0)
    assert not np.allclose(found, plain[0], atol=1e-5)


def test_flips_are_averaged(opened: Callable[..., Engine]) -> None:
    once, twice = opened("torch", "fp32"), opened("torch", "fp32", flips=True)
    mirrored = once(np.ascontiguousarray(PIXELS[:, :, ::-1]))
    mean = (once(PIXELS).probabilities + mirrored.probabilities) / 2
    assert not np.allclose(once(PIXELS).probabilities, mean, atol=1e-5)
    np.testing.assert_allclose(twice(PIXELS).probabilities, mean, atol=1e-7)
    np.testing.assert_array_equal(twice(PIXELS).embeddings, once(PIXELS).embeddings)


def test_automatic_is_openvino_where_it_is_installed(file: ModelFile, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(prepare_engine(file).model, OpenVinoModel)
    assert prepare_engine(file, precision="fp16").kind == "torch"
    assert prepare_engine(file, device="cuda").kind == "torch"
    monkeypatch.setattr("overlay.engines.factory.find_spec", lambda _: None)
    assert prepare_engine(file) == prepare_engine(file, kind="torch", precision="auto")


@pytest.mark.parametrize(
    ("kind", "device", "precision", "message"),
    [
        ("torch", "cpu", "int8", "precision is int8 and engine is torch; int8 is what openvino computes in"),
        ("openvino", "cpu", "fp16", "precision is fp16 and engine is openvino; choose bf16, fp32 or int8 there"),
        ("auto", "cuda", "int8", "precision is int8 and device is cuda; int8 is for CPUs"),
        ("openvino", "cuda", "auto", "engine is openvino and device is cuda; OpenVINO is for CPUs here"),
        ("auto", "cpu", "int8", "precision is int8, and there are no images to calibrate it with"),
    ],
)
def test_what_an_engine_can_t_do_is_refused(
    kind: EngineKind, device: str, precision: Precision, message: str, file: ModelFile
) -> None:
    with pytest.raises(RequestError) as refused:
        prepare_engine(file, kind, device, precision)  # type: ignore[arg-type]
    assert str(refused.value) == message


def test_what_is_not_installed_is_named(file: ModelFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("overlay.engines.factory.find_spec", lambda _: None)
    with pytest.raises(RequestError, match="openvino is not installed; install overlay"):
        prepare_engine(file, "openvino")


@pytest.mark.parametrize(
    ("device", "batch_size", "cores", "layout"),
    [
        ("cpu", 32, 4, ThreadLayout(chunk=4, streams=4, cores=4)),
        ("cpu", 8, 4, ThreadLayout(chunk=2, streams=4, cores=4)),
        ("cpu", 1, 4, ThreadLayout(chunk=1, streams=1, cores=4)),
        ("cpu", 32, 16, ThreadLayout(chunk=2, streams=16, cores=16)),
        ("cuda", 32, 4, ThreadLayout(chunk=32, streams=1, cores=4)),
    ],
)
def test_a_batch_is_divided_over_the_cores(
    device: Literal["cpu", "cuda"], batch_size: int, cores: int, layout: ThreadLayout
) -> None:
    plan = EnginePlan("openvino", device, "auto", OpenVinoModel(b"", b""), 3)
    assert thread_layout(plan, batch_size, cores) == layout


def test_several_threads_get_the_scores_of_one(opened: Callable[..., Engine]) -> None:
    """As two batches in flight on a GPU do."""
    engine = opened("torch", "fp32")
    expected = engine(PIXELS)
    with ThreadPoolExecutor(2) as threads:
        for scores in threads.map(engine, [PIXELS] * 6):
            np.testing.assert_array_equal(scores.probabilities, expected.probabilities)
            np.testing.assert_array_equal(scores.embeddings, expected.embeddings)


@pytest.mark.parametrize(
    ("kind", "batch_size", "chunk"), [("torch", "auto", 128), ("torch", 8, 8), ("compile", "auto", 256)]
)
def test_on_a_gpu_auto_takes_the_fastest_chunk(
    kind: Literal["torch", "compile"],
    batch_size: BatchSize,
    chunk: int,
    file: ModelFile,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The forward pass and its speed are replaced, since this machine may have no GPU."""
    layouts: list[ThreadLayout] = []

    class NoForward(Forward):
        precision, embedding_size = "bf16", 512

    def opened_forward(plan: EnginePlan, model: ModelFile, threads: ThreadLayout) -> Forward:
        layouts.append(threads)
        return NoForward()

    monkeypatch.setattr("overlay.engines.factory._open_forward", opened_forward)
    monkeypatch.setattr("overlay.engines.factory.fastest_chunk", lambda _, size: 128 if size == SIZE else 0)
    engine = open_engine(prepare_engine(file, kind, "cuda"), batch_size=batch_size)
    assert engine.chunk == chunk
    said = f"batch_size auto: {chunk} images in one forward pass\n" if batch_size == "auto" else ""
    assert capsys.readouterr().out == said
    assert layouts[0].chunk == {("torch", "auto"): 512, ("torch", 8): 8, ("compile", "auto"): 256}[kind, batch_size]


def test_on_a_cpu_auto_is_a_batch_of_32(opened: Callable[..., Engine]) -> None:
    engine, auto = opened("torch", "fp32", 32), opened("torch", "fp32", "auto")
    assert auto.chunk == engine.chunk
    np.testing.assert_array_equal(auto(PIXELS).probabilities, engine(PIXELS).probabilities)


@pytest.mark.parametrize("arch", ["swin_t", "maxvit_t", "mnasnet0_5", "convnext_tiny", "densenet121"])
@pytest.mark.slow
def test_networks_that_are_no_resnets_have_an_engine_too(arch: str) -> None:
    size = 224 if arch == "maxvit_t" else 64
    network = torchvision.models.get_model(arch, num_classes=3).eval()
    file = ModelFile("m.pth", OrderedDict(network.state_dict()), card(arch), sha256="")
    pixels = np.resize(PIXELS, (2, size, size, 3))
    with torch.inference_mode():
        images = normalise(torch.from_numpy(pixels), torch.tensor(MEAN), torch.tensor(STD))
        expected = network(images).softmax(dim=1).numpy()
    found = open_engine(prepare_engine(file, "torch", "cpu", "fp32"), batch_size=2)(pixels).probabilities
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)


def test_rows_with_a_reason_are_not_scored(opened: Callable[..., Engine]) -> None:
    engine = opened("torch", "fp32")
    rows = decoded(["", "broken", ""])
    scored = score_rows(engine, rows, embeddings=True)
    assert set(scored) == {*DecodedBatch.__annotations__, *ScoredBatch.__annotations__} - {"pixels"}
    alone = engine(PIXELS[[0, 2]])
    np.testing.assert_array_equal(scored["probabilities"][[0, 2]], alone.probabilities)
    np.testing.assert_array_equal(scored["embedding"][[0, 2]], alone.embeddings)
    assert np.isnan(scored["probabilities"][1]).all()
    assert np.isnan(scored["embedding"][1]).all()
    assert scored["precision"].tolist() == ["fp32"] * 3
    seconds = scored["seconds_forward"]
    assert seconds[0] == seconds[2] > seconds[1] == 0
    none = score_rows(engine, decoded(["broken"] * 3))
    assert np.isnan(none["probabilities"]).all()
    assert "embedding" not in none


def test_no_number_is_a_reason(file: ModelFile) -> None:
    state = OrderedDict(file.state) | {"fc.bias": torch.tensor([0, torch.nan, 0])}
    engine = open_engine(prepare_engine(replace(file, state=state), "torch", precision="fp32"))
    scored = score_rows(engine, decoded(["", "no"]))
    assert scored["reason"].tolist() == ["the model gave no number", "no"]
    assert scored["error_kind"].tolist() == ["crashed", "damaged"]


@pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="an extra")
def test_openvino_is_imported_without_telemetry_and_computes_without_torch(file: ModelFile, tmp_path: Path) -> None:
    plan = prepare_engine(file, "openvino")
    assert isinstance(plan.model, OpenVinoModel)
    (tmp_path / "m.xml").write_bytes(plan.model.xml)
    (tmp_path / "m.bin").write_bytes(plan.model.weights)
    program = """
import sys
from pathlib import Path
import numpy as np
from overlay.engines.base import EnginePlan, OpenVinoModel
from overlay.engines.factory import open_engine
model = OpenVinoModel(Path(sys.argv[1], "m.xml").read_bytes(), Path(sys.argv[1], "m.bin").read_bytes())
engine = open_engine(EnginePlan("openvino", "cpu", "fp32", model, 3))
print(engine(np.zeros((1, 32, 32, 3), np.uint8)).probabilities.shape)
print([name for name, module in sys.modules.items() if name in ("torch", "openvino_telemetry") and module])
"""
    done = subprocess.run([sys.executable, "-c", program, tmp_path], capture_output=True, text=True)
    assert done.stdout.splitlines() == ["(1, 3)", "[]"], done.stderr


@pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="an extra")
def test_a_saved_model_is_converted_for_openvino_once(
    file: ModelFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from overlay.engines import openvino_engine

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    saved = replace(file, sha256="ab" * 32)
    converted = prepare_engine(saved, "openvino").model
    monkeypatch.delattr(openvino_engine, "_converted")
    assert prepare_engine(saved, "openvino").model == converted


def test_several_models_give_the_mean_of_their_probabilities(file: ModelFile) -> None:
    other = replace(file, state=OrderedDict((name, tensor * 1.1) for name, tensor in file.state.items()))
    kinds: tuple[EngineKind, ...] = ("torch", "openvino")
    for kind in kinds:
        alone = [open_engine(prepare_engine(each, kind, "cpu", "fp32"))(PIXELS) for each in (file, other)]
        plan = prepare_engines([file, other], kind, "cpu", "fp32", None)
        assert str(plan) == f"{kind} on cpu, mean of 2 models"
        found = open_engine(plan)(PIXELS)
        mean = (alone[0].probabilities + alone[1].probabilities) / 2
        np.testing.assert_allclose(found.probabilities, mean, atol=1e-6, rtol=0)
        np.testing.assert_array_equal(found.embeddings, alone[0].embeddings)
        assert np.abs(mean - alone[0].probabilities).max() > 1e-3
