"""Loss and confusion counts of an epoch, summed exactly over its batches and over all workers."""

import numpy as np
import torch
import torch.distributed
from numpy.typing import NDArray
from torch import Tensor


class Tally:
    """Sums that stay on the device: adding a batch never waits for it.

    Each worker adds what it saw; `sums` then gives all of them the same totals. Means are taken of totals, never of
    means, so the result does not depend on how the samples were divided.
    """

    def __init__(self, classes: int, device: torch.device) -> None:
        self._classes = classes
        self._loss = torch.zeros((), dtype=torch.float64, device=device)
        self._confusion = torch.zeros(classes * classes, dtype=torch.int64, device=device)

    def add(self, logits: Tensor, labels: Tensor, losses: Tensor) -> None:
        """Add a batch: logits (n, classes), labels int64 (n,), losses (n,)."""
        self._loss += losses.detach().double().sum()
        cells = labels * self._classes + logits.detach().argmax(dim=1)
        self._confusion.scatter_add_(0, cells, torch.ones_like(cells))  # bincount would wait for the largest cell

    def sums(self) -> tuple[float, NDArray[np.int64]]:
        """Return the mean loss and the confusion matrix (rows true, columns predicted) over all workers; start anew."""
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(self._loss)
            torch.distributed.all_reduce(self._confusion)
        confusion = self._confusion.cpu().numpy().reshape(self._classes, self._classes).copy()
        loss = self._loss.item() / confusion.sum()
        self._loss.zero_()
        self._confusion.zero_()
        return float(loss), confusion
