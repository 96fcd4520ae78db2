"""Training metrics of an epoch: loss and confusion matrix, summed exactly over its batches and over all workers."""

from typing import TypedDict

import numpy as np
import torch
import torch.distributed
from numpy.typing import NDArray
from torch import Tensor


class EpochTotals(TypedDict):
    """Sums over the samples of an epoch so far, as a checkpoint holds them."""

    loss: Tensor
    """float64 ()"""
    confusion: Tensor
    """int64 (classes * classes,), rows true and columns predicted"""


class EpochMetrics:
    """Accumulator that stays on the device: adding a batch never waits for it.

    Each worker adds its own samples; an all-reduce then gives all workers the same totals. Means are taken of totals,
    never of means, so the result does not depend on how the samples were divided.
    """

    def __init__(self, classes: int, device: torch.device) -> None:
        self._classes = classes
        self._loss = torch.zeros((), dtype=torch.float64, device=device)
        self._confusion = torch.zeros(classes * classes, dtype=torch.int64, device=device)
        on_gpu = device.type == "cuda"
        self._copied = torch.zeros(2, dtype=torch.float64, pin_memory=on_gpu)
        self._copy_done = torch.cuda.Event() if on_gpu else None  # type: ignore[no-untyped-call]
        self._running_loss: float | None = None

    def add(self, logits: Tensor, labels: Tensor, losses: Tensor) -> None:
        """Add a batch: logits (n, classes), labels int64 (n,), losses (n,)."""
        self._loss += losses.detach().double().sum()
        cells = labels * self._classes + logits.detach().argmax(dim=1)
        self._confusion.scatter_add_(0, cells, torch.ones_like(cells))  # bincount would wait for the largest cell

    def compute_and_reset(self) -> tuple[float, NDArray[np.int64]]:
        """Return the mean loss and the confusion matrix (classes, classes) over all workers, and start a new epoch.

        Rows are true classes, columns predicted ones. A collective operation: all workers must call it together.
        """
        totals = self.all_reduce()
        confusion = totals["confusion"].cpu().numpy().reshape(self._classes, self._classes).copy()
        loss = totals["loss"].item() / confusion.sum()
        self._loss.zero_()
        self._confusion.zero_()
        return float(loss), confusion

    def all_reduce(self) -> EpochTotals:
        """Return the totals of all workers since the last reset; all of them must call it together."""
        totals: EpochTotals = {"loss": self._loss.clone(), "confusion": self._confusion.clone()}
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(totals["loss"])
            torch.distributed.all_reduce(totals["confusion"])
        return totals

    def load_totals(self, totals: EpochTotals) -> None:
        """Resume an epoch from a checkpoint's totals; only one worker may do so, since they are those of all."""
        self._loss.copy_(totals["loss"])
        self._confusion.copy_(totals["confusion"])

    def running_loss(self) -> float | None:
        """Return this worker's mean loss as of an earlier call, mostly the last, without waiting for the device."""
        if self._copy_done is None or self._copy_done.query():  # type: ignore[no-untyped-call]
            losses, samples = self._copied.tolist()
            self._running_loss = losses / samples if samples else None
            self._copied.copy_(torch.stack([self._loss, self._confusion.sum().double()]), non_blocking=True)
            if self._copy_done is not None:
                self._copy_done.record()
        return self._running_loss
