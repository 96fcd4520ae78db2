"""Validation by several processes, without Ray: they share nothing but torch's process group."""

from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.multiprocessing.spawn import spawn

from overlay.models import model_file
from overlay.models.device import use_all_cores
from overlay.models.network import IMAGENET_MEAN, IMAGENET_STD, create_network
from overlay.training.sampler import SINGLE_WORKER, Worker
from pipelines.training.image_source import DecodedImages
from pipelines.training.validation import VALIDATION_BATCH, ValidationTask, validate_epoch

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


class InMemory:
    """Stands for `DecodedImages`, which are in Ray's object store."""

    def __init__(self) -> None:
        random = np.random.default_rng(0)
        self._images = random.integers(0, 256, (SAMPLES, 32, 32, 3), np.uint8)
        self.labels = random.integers(0, 3, SAMPLES)

    def __len__(self) -> int:
        return SAMPLES

    def gather(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        return self._images[indices]


def validated(worker: Worker) -> tuple[float, NDArray[np.int64]]:
    torch.manual_seed(0)
    network = create_network("resnet18", 3)
    if worker.rank > 0:  # only worker 0's running statistics count
        network.get_buffer("bn1.running_mean").fill_(1)
    samples = cast(DecodedImages, InMemory())
    found = validate_epoch(network, ValidationTask(samples, CARD, torch.autocast("cpu", enabled=False)), worker)
    assert found is not None
    return found


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
    task = ValidationTask(cast(DecodedImages, InMemory()), CARD, torch.autocast("cpu", enabled=False))
    assert validate_epoch(create_network("resnet18", 3), task, SINGLE_WORKER, lambda: next(answers)) is None


def run_worker(rank: int, workers: int, folder: str) -> None:
    use_all_cores(share=workers)
    rendezvous = f"file://{folder}/rendezvous"
    torch.distributed.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=workers)
    loss, confusion = validated(Worker(rank, workers))
    torch.save({"loss": loss, "confusion": confusion.tolist()}, Path(folder, f"{rank}.pt"))
    torch.distributed.destroy_process_group()
