"""Validation by several processes, without Ray: they share nothing but torch's process group."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.multiprocessing.spawn import spawn

from overlay.models import model_file
from overlay.models.device import use_all_cores
from overlay.models.network import IMAGENET_MEAN, IMAGENET_STD, create_network
from overlay.training.sampler import SINGLE_WORKER, SequentialPlan, Worker
from pipelines.training.batch_stream import TrainingBatch
from pipelines.training.validation import VALIDATION_BATCH, ValidationTask, validate_epoch, validation_batch_size

SAMPLES = 3 * VALIDATION_BATCH + 5  # 101: a prime number, so no count of workers divides it
CARD = model_file.ModelCard(
    arch="resnet18",
    classes=("benign", "malignant", "normal"),
    size=32,
    resize="squash",
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
    overlay=None,
    dataset="",
    weights="none",
    version="",
)


def batches(worker: Worker) -> Iterator[TrainingBatch]:
    """Yield what `validation_batches` gives a worker, without Ray."""
    random = np.random.default_rng(0)
    images, labels = random.integers(0, 256, (SAMPLES, 32, 32, 3), np.uint8), random.integers(0, 3, SAMPLES)
    plan = SequentialPlan(SAMPLES, VALIDATION_BATCH)
    for step in plan.worker_steps(worker):
        yield TrainingBatch(step, images[plan.batch(step)], labels[plan.batch(step)])


def validated(worker: Worker) -> tuple[float, NDArray[np.int64]]:
    torch.manual_seed(0)
    network = create_network("resnet18", 3)
    if worker.rank > 0:  # only worker 0's running statistics count
        network.get_buffer("bn1.running_mean").fill_(1)
    task = ValidationTask(batches(worker), CARD, torch.autocast("cpu", enabled=False))
    found = validate_epoch(network, task, worker)
    assert found is not None
    return found


def test_a_gpu_validates_as_many_images_at_once_as_it_trains() -> None:
    assert validation_batch_size("cpu", 256) == VALIDATION_BATCH == 32
    assert validation_batch_size("cuda", 256) == 256
    assert validation_batch_size("cuda", 16) == 32


@pytest.mark.slow
@pytest.mark.parametrize("workers", [2, 3])
def test_the_numbers_of_several_workers_are_those_of_one(workers: int, tmp_path: Path) -> None:
    loss, confusion = validated(SINGLE_WORKER)
    assert confusion.sum() == SAMPLES
    spawn(run_worker, args=(workers, str(tmp_path)), nprocs=workers)  # type: ignore[no-untyped-call]
    for rank in range(workers):
        result = torch.load(tmp_path / f"{rank}.pt")
        assert result["loss"] == pytest.approx(loss, abs=1e-6)
        assert result["confusion"] == confusion.tolist()


def test_a_stop_request_ends_a_validation_without_a_result() -> None:
    answers = iter([False, True])
    task = ValidationTask(batches(SINGLE_WORKER), CARD, torch.autocast("cpu", enabled=False))
    assert validate_epoch(create_network("resnet18", 3), task, SINGLE_WORKER, lambda: next(answers)) is None


def run_worker(rank: int, workers: int, folder: str) -> None:
    use_all_cores(share=workers)
    rendezvous = f"file://{folder}/rendezvous"
    torch.distributed.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=workers)
    loss, confusion = validated(Worker(rank, workers))
    torch.save({"loss": loss, "confusion": confusion.tolist()}, Path(folder, f"{rank}.pt"))
    torch.distributed.destroy_process_group()
