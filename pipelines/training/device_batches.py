"""Batches of a training or validation on the device: a thread pins and copies the next one while a GPU computes."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import torch
from torch import Tensor

from overlay.models.device_copy import DeviceCopier, Upload
from pipelines.training.batch_stream import TrainingBatch

GPU_BATCHES_AHEAD = 2
"""batches on a GPU, or on their way to it, beside the one that is computed"""
_Item = TypeVar("_Item")


@dataclass(frozen=True)
class DeviceBatch:
    """One worker's share of a step's batch, on its way to the device."""

    step: int
    _images: Upload
    _labels: Upload

    @classmethod
    def upload(cls, batch: TrainingBatch, copier: DeviceCopier) -> "DeviceBatch":
        """Begin to copy a batch to the device."""
        return cls(batch.step, copier.upload(batch.images), copier.upload(batch.labels))

    def tensors(self) -> tuple[Tensor, Tensor]:
        """Return images, uint8 (n, size, size, 3), and labels, int64 (n,), for the thread that computes."""
        return self._images.tensor(), self._labels.tensor()


def upload_batches(batches: Iterable[TrainingBatch], device: torch.device) -> Iterator[DeviceBatch]:
    """Yield batches as they are copied to the device, on a GPU ahead, and on a CPU each when it is asked for."""
    copier = DeviceCopier(device)
    uploads = (DeviceBatch.upload(batch, copier) for batch in batches)
    return iterate_ahead(uploads, GPU_BATCHES_AHEAD) if device.type == "cuda" else uploads


def iterate_ahead(items: Iterator[_Item], ahead: int) -> Iterator[_Item]:
    """Yield the items of an iterator, of which a thread takes so many ahead."""
    thread = ThreadPoolExecutor(1, "batches-ahead")
    pending = deque[Future[list[_Item]]]()

    def take() -> list[_Item]:
        """Return the next item in a list, which is empty after the last one."""
        return list(islice(items, 1))

    try:
        pending.extend(thread.submit(take) for _ in range(ahead))
        while taken := pending.popleft().result():
            pending.append(thread.submit(take))
            yield from taken
    finally:
        thread.shutdown(wait=False, cancel_futures=True)
