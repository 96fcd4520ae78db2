"""Weighted cross-entropy per sample, so that a batch can be divided over workers without changing its mean."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from overlay.config import Loss
from overlay.errors import RequestError


def class_weights(config: Loss, classes: Sequence[str], counts: Sequence[int]) -> Tensor | None:
    """Return the weight of each class, float32 (k,), or None where all are alike.

    ``counts`` are the training images of each class. "balanced" is n / (k * count), as in scikit-learn
    (King & Zeng 2001): summed over the training images, each class weighs the same.

    Raises:
        RequestError: a class has no training image, and the weights should be balanced.
    """
    if config.class_weights == "none":
        return None
    for name, count in zip(classes, counts, strict=True):
        if count == 0:
            raise RequestError(
                f"loss.class_weights is balanced, and there is no training image of the class {name}; use none"
            )
    return torch.tensor([sum(counts) / (len(counts) * count) for count in counts])


def soft_targets(labels: Tensor, classes: int) -> Tensor:
    """Turn labels int64 (n,) into targets float32 (n, k) that mixing can blend: 1 for the label, 0 for the rest."""
    return one_hot(labels, classes).float()


def sample_losses(
    logits: Tensor, targets: Tensor, weights: Tensor | None = None, label_smoothing: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Return the weighted cross-entropy of each sample, float32 (n,), and the sample's weight, float32 (n,).

    ``logits`` (n, k) of any precision, ``targets`` float32 (n, k) of sum 1 (`soft_targets`), ``weights`` float32 (k,)
    of the classes. The batch's loss is the sum of the losses over the sum of the weights, over all workers; for targets
    that are not mixed it is torch's cross_entropy, label smoothing (Szegedy et al. 2016, arXiv:1512.00567) included.
    """
    losses = cross_entropy(logits.float(), targets, weight=weights, label_smoothing=label_smoothing, reduction="none")
    return losses, targets.sum(dim=1) if weights is None else targets @ weights
