"""Jobs on a GPU: `make test-gpu`. Each is held against the same job on the CPU, or against itself."""

import gc
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import overlay
from overlay.config import ClusterOptions, EngineKind, Input, Loop, Model, Predict, Tracking, Train
from overlay.dataset.prepared import PreparedDataset
from overlay.engines.chunk_size import CHUNK_SIZES
from overlay.engines.factory import open_engine, prepare_engine, prepare_engines
from overlay.errors import WorkError
from overlay.models.model_file import MODEL_FILE, load_model_file
from overlay.models.network import StateDict
from pipelines import predict, train
from pipelines.training.setup import RunImages, TrainingJob
from pipelines.training.trainer import run_trainer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
    pytest.mark.usefixtures("ray_session"),
    # Torch records this warning of a graph that it leaves empty on purpose, to learn of its memory.
    pytest.mark.filterwarnings("ignore:The CUDA Graph is empty"),
]


DEVICES: tuple[Literal["cuda", "cpu"], ...] = ("cuda", "cpu")


def request(dataset: PreparedDataset, out: Path, **loop: object) -> Train:
    return Train(
        dataset=dataset.path,
        out=str(out),
        input=Input(size=64),
        model=Model(arch="resnet18", weights="none"),
        train=Loop(**{"epochs": 2, "batch_size": 8, "device": "cuda", "deterministic": True} | loop),  # type: ignore[arg-type]
        tracking=Tracking(mode="disabled"),
    )


def weights(run: Path) -> StateDict:
    return load_model_file(run / MODEL_FILE).state


def equal(one: StateDict, other: StateDict) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def undisturbed(dataset: PreparedDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("gpu") / "run"
    train.run(request(dataset, out))
    return out


def test_a_deterministic_training_gives_the_same_bits_again(
    undisturbed: Path, dataset: PreparedDataset, tmp_path: Path
) -> None:
    train.run(request(dataset, tmp_path / "run"))
    assert equal(weights(tmp_path / "run"), weights(undisturbed))


def test_a_resumed_training_gives_the_bits_of_an_undisturbed_one(
    undisturbed: Path, dataset: PreparedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first command is interrupted once a checkpoint is there."""
    out = tmp_path / "run"
    config = request(dataset, out, checkpoint_steps=1)
    monkeypatch.setattr(train, "run_trainer", _stop_after_a_step)
    with pytest.raises(KeyboardInterrupt):
        train.run(config)
    monkeypatch.undo()
    train.run(config)
    assert equal(weights(out), weights(undisturbed))


def _stop_after_a_step(job: TrainingJob, store: Callable[[], RunImages], request_stop: Callable[[], bool]) -> None:
    """Run the workers, and interrupt the command once a checkpoint is there."""

    def watch() -> None:
        while not list(Path(job.checkpoints.path).glob("step-*")):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=watch, daemon=True).start()
    run_trainer(job, store, request_stop)


def test_an_automatic_batch_of_a_training(
    dataset: PreparedDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The largest power of two, up to the number of images."""
    train.run(request(dataset, tmp_path / "run", batch_size="auto", precision="auto", epochs=1))
    assert "train.batch_size auto: 16 (16 for each GPU)" in capsys.readouterr().out


def test_a_dry_run_in_fp16_tells_the_memory_of_the_gpu(
    dataset: PreparedDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train.run(request(dataset, tmp_path / "run", precision="fp16", dry_run=2))
    assert re.search(r"a worker took \d+\.\d GiB of GPU memory", capsys.readouterr().out)


def test_compiled_and_not_it_learns_the_same(undisturbed: Path, dataset: PreparedDataset, tmp_path: Path) -> None:
    train.run(request(dataset, tmp_path / "run", compile=True, deterministic=False))
    losses = [
        pq.read_table(run / "history.parquet")["train_loss"].to_numpy() for run in (undisturbed, tmp_path / "run")
    ]
    np.testing.assert_allclose(losses[1], losses[0], rtol=0.05)


def test_a_batch_that_is_too_large_for_the_gpu_is_named(dataset: PreparedDataset, tmp_path: Path) -> None:
    large = replace(request(dataset, tmp_path / "run", batch_size=24), input=Input(size=2048))
    with pytest.raises(WorkError, match=r"a GPU's \d+ GiB are too small for batches of 24 images in 1 parts"):
        train.run(replace(large, model=Model(arch="resnet101", weights="none")))


@pytest.mark.parametrize(("engine", "actors"), [("torch", None), ("compile", None), ("torch", 1), ("compile", 1)])
def test_predictions_are_those_of_the_cpu(
    undisturbed: Path, phantoms: Path, engine: EngineKind, actors: int | None, tmp_path: Path
) -> None:
    """In this process, and by an actor on Ray."""
    shares = []
    for device, chosen in (("cpu", "torch"), ("cuda", engine)):
        out = tmp_path / device
        options = {"device": device, "engine": chosen, "precision": "fp32", "actors": actors}
        predict.run(Predict(str(undisturbed), [str(phantoms)], str(out), **options))  # type: ignore[arg-type]
        rows = pq.read_table(out / "predictions").sort_by("id")
        shares.append(np.stack([rows[f"prob_{name}"].to_numpy() for name in ("benign", "malignant", "normal")]))
    np.testing.assert_allclose(shares[1], shares[0], atol=1e-3)


def test_a_loaded_model_predicts_as_the_cpu(undisturbed: Path, phantoms: Path) -> None:
    image, mask = phantoms / "benign" / "benign (1).png", phantoms / "benign" / "benign (1)_mask.png"
    found, expected = (
        overlay.load_model(undisturbed, device=device, engine="torch", precision="fp32").predict([image], [mask])
        for device in DEVICES
    )
    assert found[0].probabilities == pytest.approx(expected[0].probabilities, abs=1e-3)


def test_several_compiled_models_in_one_process(undisturbed: Path) -> None:
    """Torch keeps CUDA graphs for each thread."""
    file, images = load_model_file(undisturbed), np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), np.uint8)
    expected = open_engine(prepare_engine(file, "torch", "cuda", "fp32"), batch_size=8)(images)
    averaged = prepare_engines([file, file], "compile", "cuda", "fp32", None)
    for plan in (averaged, prepare_engine(file, "compile", "cuda", "fp32")):
        engine = open_engine(plan, batch_size=8)
        for _ in range(3):  # the first passes record the graph
            np.testing.assert_allclose(engine(images).probabilities, expected.probabilities, atol=1e-3)


@pytest.fixture
def little_memory() -> Iterator[None]:
    """This process gets 160 MiB of the GPU beside what torch holds."""
    gc.collect()
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 160 * 2**20) / total)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.mark.usefixtures("little_memory")
def test_a_batch_is_halved_until_the_memory_is_enough(undisturbed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, images = load_model_file(undisturbed), np.random.default_rng(0).integers(0, 256, (600, 64, 64, 3), np.uint8)
    engine = open_engine(prepare_engine(file, "torch", "cuda", "fp32"), batch_size=512)
    found = engine(images).probabilities
    assert "the GPU's memory is too small for 512 images in one forward pass; now 256" in capsys.readouterr().out
    assert engine.chunk < 512
    expected = open_engine(prepare_engine(file, "torch", "cpu", "fp32"))(images).probabilities
    np.testing.assert_allclose(found, expected, atol=1e-3)


@pytest.mark.usefixtures("little_memory")
def test_an_automatic_batch_of_a_prediction_fits_the_memory(
    undisturbed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = open_engine(prepare_engine(load_model_file(undisturbed), "torch", "cuda", "fp32"), batch_size="auto")
    assert f"batch_size auto: {engine.chunk} images in one forward pass" in capsys.readouterr().out
    assert engine.chunk in CHUNK_SIZES[:-1]


def test_two_workers_share_a_gpu(dataset: PreparedDataset, tmp_path: Path) -> None:
    """Frozen statistics don't depend on the share of a batch, so the losses are those of one worker."""
    losses = []
    for workers, gpus in ((1, 1.0), (2, 0.5)):
        config = request(dataset, tmp_path / str(workers), workers=workers, precision="fp32")
        frozen = replace(config.model, freeze_norm=True)
        train.run(replace(config, model=frozen, cluster=ClusterOptions(gpus_per_worker=gpus)))
        history = pq.read_table(tmp_path / str(workers) / "history.parquet")
        losses.append(history["train_loss"].to_numpy())
        assert all(0 <= share < 1 for share in history["device_wait_share"].to_pylist())
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-3)
