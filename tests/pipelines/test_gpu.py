"""Jobs on a GPU: `make test-gpu`. Each is held against the same job on the CPU, or against itself."""

import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from overlay.config import Input, Loop, Model, Predict, Tracking, Train
from overlay.dataset.prepared import PreparedDataset
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
]


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


def test_compiled_and_not_it_learns_the_same(undisturbed: Path, dataset: PreparedDataset, tmp_path: Path) -> None:
    train.run(request(dataset, tmp_path / "run", compile=True, deterministic=False))
    losses = [
        pq.read_table(run / "history.parquet")["train_loss"].to_numpy() for run in (undisturbed, tmp_path / "run")
    ]
    np.testing.assert_allclose(losses[1], losses[0], rtol=0.05)


def test_a_batch_that_is_too_large_for_the_gpu_is_named(dataset: PreparedDataset, tmp_path: Path) -> None:
    large = replace(request(dataset, tmp_path / "run", batch_size=24), input=Input(size=8192))
    with pytest.raises(WorkError, match=r"a GPU's \d+ GiB are too small for batches of 24 images in 1 parts"):
        train.run(replace(large, model=Model(arch="resnet101", weights="none")))


@pytest.mark.parametrize("engine", ["torch", "compile"])
def test_predictions_are_those_of_the_cpu(undisturbed: Path, phantoms: Path, engine: str, tmp_path: Path) -> None:
    shares = []
    for device, chosen in (("cpu", "torch"), ("cuda", engine)):
        out = tmp_path / device
        options = {"device": device, "engine": chosen, "precision": "fp32"}
        predict.run(Predict(str(undisturbed), [str(phantoms)], str(out), **options))  # type: ignore[arg-type]
        rows = pq.read_table(out / "predictions").sort_by("id")
        shares.append(np.stack([rows[f"prob_{name}"].to_numpy() for name in ("benign", "malignant", "normal")]))
    np.testing.assert_allclose(shares[1], shares[0], atol=1e-3)
