"""Loss and confusion counts of an epoch, summed exactly over its batches and over all workers."""

import numpy as np
import torch
import torch.distributed
from numpy.typing import NDArray
from torch import Tensor


class EpochMetrics:
    """Sums that stay on the device: adding a batch never waits for it.

    Each worker adds what it saw; `sums` then gives all of them the same totals. Means are taken of totals, never of
    means, so the result does not depend on how the samples were divided.
    """

    def __init__(self, classes: int, device: torch.device) -> None:
        self._classes = classes
        self._loss = torch.zeros((), dtype=torch.float64, device=device)
        self._confusion = torch.zeros(classes * classes, dtype=torch.int64, device=device)
        on_gpu = device.type == "cuda"
        self._glance = torch.zeros(2, dtype=torch.float64, pin_memory=on_gpu)
        self._event = torch.cuda.Event() if on_gpu else None  # type: ignore[no-untyped-call]
        self._earlier: float | None = None

    def add(self, logits: Tensor, labels: Tensor, losses: Tensor) -> None:
        """Add a batch: logits (n, classes), labels int64 (n,), losses (n,)."""
        self._loss += losses.detach().double().sum()
        cells = labels * self._classes + logits.detach().argmax(dim=1)
        self._confusion.scatter_add_(0, cells, torch.ones_like(cells))  # bincount would wait for the largest cell

    def sums(self) -> tuple[float, NDArray[np.int64]]:
        """Return the mean loss and the confusion matrix (rows true, columns predicted) over all workers; start anew."""
        totals = self.totals()
        confusion = totals["confusion"].cpu().numpy().reshape(self._classes, self._classes).copy()
        loss = totals["loss"].item() / confusion.sum()
        self._loss.zero_()
        self._confusion.zero_()
        return float(loss), confusion

    def totals(self) -> dict[str, Tensor]:
        """Return what all workers have added since the last `sums`; all of them must call it at the same time."""
        totals = {"loss": self._loss.clone(), "confusion": self._confusion.clone()}
        if torch.distributed.is_initialized():
            for total in totals.values():
                torch.distributed.all_reduce(total)
        return totals

    def load(self, totals: dict[str, Tensor]) -> None:
        """Take over what had been added before; one worker does it for all."""
        self._loss.copy_(totals["loss"])
        self._confusion.copy_(totals["confusion"])

    def glance(self) -> float | None:
        """Return this worker's mean loss at an earlier call, at the last one mostly, without waiting for the device."""
        if self._event is None or self._event.query():  # type: ignore[no-untyped-call]
            losses, samples = self._glance.tolist()
            self._earlier = losses / samples if samples else None
            self._glance.copy_(torch.stack([self._loss, self._confusion.sum().double()]), non_blocking=True)
            if self._event is not None:
                self._event.record()
        return self._earlier
