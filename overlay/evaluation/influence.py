"""Influence functions of classification metrics: accuracy, recall, precision, F1, AUROC, log loss, Brier score.

The influence of image i is the metric's derivative in the weight of that image, divided by n. The influences of a
metric add up to 0, and their sums over groups give its standard error where the images of a group (a patient, or
near-duplicates) depend on each other: see ``intervals``. Hampel 1974, JASA 69:383; for the AUROC these are the
placement values of DeLong et al. 1988, Biometrics 44:837, in O(n log n) as in Sun & Xu 2014, IEEE Signal Proc. Lett.
21:1389.

Shapes: ``labels`` and ``predicted`` are (n,) class indices, ``probabilities`` is (n, C) with rows that add up to 1,
``positive`` and ``flagged`` are (n,) booleans, n is at least 1. A metric without a single image to count is None.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_LEAST_PROBABILITY = float(np.finfo(np.float32).tiny)
LARGEST_LOG_LOSS = -float(np.log(_LEAST_PROBABILITY))
"""largest loss of one image, 87.3 nats: a probability below the least normal float32, 1.2e-38, counts as that"""
LARGEST_BRIER = 2.0


@dataclass(frozen=True, eq=False)
class Influence:
    """Value of a metric and influence of each image on it."""

    value: float
    phi: NDArray[np.float64]
    """(n,) influences, which add up to 0; 0 for an image that the metric does not count"""
    counted: NDArray[np.bool_]
    """(n,) whether the metric counts the image: of a recall, the images of its class"""
    size: float
    """images that stand behind a value of 0 or 1, where phi is 0: n, the class's n, C^2 / sum(1 / n_c), min(n+, n-)"""
    limits: tuple[float, float] = (0.0, 1.0)
    """smallest and largest possible value"""
    is_mean_loss: bool = False
    """a mean of losses, which has a t interval, and not a share, which has a Wilson interval"""


def accuracy_influence(labels: NDArray[np.int64], predicted: NDArray[np.int64]) -> Influence:
    """Accuracy: share of the images whose predicted class is the true one."""
    return _share(labels == predicted, np.ones(len(labels), dtype=bool))


def recall_influence(labels: NDArray[np.int64], predicted: NDArray[np.int64], index: int) -> Influence | None:
    """Recall of a class: share of its images that are predicted as such; None where no image is of the class."""
    return _share_or_none(labels == predicted, labels == index)


def precision_influence(labels: NDArray[np.int64], predicted: NDArray[np.int64], index: int) -> Influence | None:
    """Precision of a class: share of the images predicted as such that are of it; None where it is never predicted."""
    return _share_or_none(labels == predicted, predicted == index)


def f1_influence(labels: NDArray[np.int64], predicted: NDArray[np.int64], index: int) -> Influence | None:
    """F1 of a class, 2 TP / (2 TP + FP + FN); None where the class is neither seen nor predicted."""
    seen, called = labels == index, predicted == index
    if (either := int(seen.sum() + called.sum())) == 0:
        return None
    value = 2 * int((seen & called).sum()) / either
    phi = (2.0 * (seen & called) - value * (seen.astype(np.float64) + called)) / either
    return Influence(value, phi, seen | called, float(seen.sum() or called.sum()))


def sensitivity_influence(positive: NDArray[np.bool_], flagged: NDArray[np.bool_]) -> Influence | None:
    """Sensitivity: share of the positive images that are flagged; None without positive images."""
    return _share_or_none(flagged, positive)


def specificity_influence(positive: NDArray[np.bool_], flagged: NDArray[np.bool_]) -> Influence | None:
    """Specificity: share of the negative images that are not flagged; None without negative images."""
    return _share_or_none(~flagged, ~positive)


def balanced_accuracy_influence(labels: NDArray[np.int64], predicted: NDArray[np.int64]) -> Influence:
    """Balanced accuracy: mean recall over the classes that occur among the labels."""
    return _mean_share(labels == predicted, labels, classes=len(np.unique(labels)))


def macro_recall_influence(labels: NDArray[np.int64], predicted: NDArray[np.int64]) -> Influence:
    """Macro recall: mean over the classes seen or predicted; a class that is only predicted enters with 0."""
    return _mean_share(labels == predicted, labels, classes=len(np.union1d(labels, predicted)))


def macro_precision_influence(labels: NDArray[np.int64], predicted: NDArray[np.int64]) -> Influence:
    """Macro precision: mean over the classes seen or predicted; a class that is never predicted enters with 0."""
    return _mean_share(labels == predicted, predicted, classes=len(np.union1d(labels, predicted)))


def macro_f1_influence(labels: NDArray[np.int64], predicted: NDArray[np.int64]) -> Influence:
    """Macro-F1: mean F1 over the classes seen or predicted."""
    n, width = len(labels), int(max(labels.max(), predicted.max())) + 1
    hit = labels == predicted
    seen = np.bincount(labels, minlength=width)
    either = seen + np.bincount(predicted, minlength=width)
    present = int((either > 0).sum())
    # Class c's F1 is 2 hits / either, so an image moves it by (2 [hit] - F1 [seen] - F1 [predicted]) / either.
    weight = 1 / np.maximum(either, 1)
    f1 = 2 * np.bincount(labels[hit], minlength=width) * weight
    phi = (2 * hit * weight[labels] - (f1 * weight)[labels] - (f1 * weight)[predicted]) / present
    return Influence(float(f1.sum()) / present, phi, np.ones(n, dtype=bool), _harmonic_size(seen[seen > 0]))


def auroc_influence(positive: NDArray[np.bool_], scores: NDArray[np.float64]) -> Influence | None:
    """Area under the ROC curve: share of the pairs of a positive and a negative with the higher score at the positive.

    A tie counts one half. None where there is no positive or no negative image.
    """
    high, low = np.sort(scores[positive]), np.sort(scores[~positive])
    if len(high) == 0 or len(low) == 0:
        return None
    below = np.searchsorted(low, scores[positive], "left") + np.searchsorted(low, scores[positive], "right")
    beaten_by = np.searchsorted(high, scores[~positive], "left") + np.searchsorted(high, scores[~positive], "right")
    value = int(below.sum()) / (2 * len(high) * len(low))
    phi = np.empty(len(scores))
    phi[positive] = (below / (2 * len(low)) - value) / len(high)
    phi[~positive] = (1 - beaten_by / (2 * len(high)) - value) / len(low)
    return Influence(value, phi, np.ones(len(scores), dtype=bool), float(min(len(high), len(low))))


def one_vs_rest_auroc_influence(labels: NDArray[np.int64], probabilities: NDArray[np.float64]) -> Influence | None:
    """Mean of the classes' AUROC against all other classes; None where that of any class is."""
    parts = [auroc_influence(labels == index, probabilities[:, index]) for index in range(probabilities.shape[1])]
    defined = [part for part in parts if part is not None]
    return mean_influence(defined) if len(defined) == len(parts) else None


def log_loss_influence(labels: NDArray[np.int64], probabilities: NDArray[np.float64]) -> Influence:
    """Log loss: mean of -ln(probability of the true class), in nats; one image costs at most LARGEST_LOG_LOSS."""
    chosen = probabilities[np.arange(len(labels)), labels]
    return _mean_loss(-np.log(np.maximum(chosen, _LEAST_PROBABILITY)), LARGEST_LOG_LOSS)


def brier_influence(labels: NDArray[np.int64], probabilities: NDArray[np.float64]) -> Influence:
    """Brier score: mean over the images of the squared errors of all C probabilities, summed; between 0 and 2."""
    chosen = probabilities[np.arange(len(labels)), labels]
    return _mean_loss((probabilities**2).sum(axis=1) - 2 * chosen + 1, LARGEST_BRIER)


def mean_influence(parts: Sequence[Influence]) -> Influence:
    """Unweighted mean of at least one metric over the same n images."""
    return Influence(
        value=sum(part.value for part in parts) / len(parts),
        phi=np.mean([part.phi for part in parts], axis=0),
        counted=np.any([part.counted for part in parts], axis=0),
        size=_harmonic_size(np.array([part.size for part in parts])),
        limits=parts[0].limits,
        is_mean_loss=parts[0].is_mean_loss,
    )


def fold_mean_influence(
    folds: NDArray[np.int64], metric_of: Callable[[NDArray[np.intp]], Influence | None]
) -> Influence | None:
    """Unweighted mean over folds of a metric taken within each fold, as the AUROC of cross-validation must be.

    The scores of two folds come from two models, so that ranking them together measures how the models differ.
    Counts (accuracy, recall, F1) are pooled instead: give all folds' images to the metric at once.
    Forman & Scholz 2010, SIGKDD Explorations 12(1):49.

    Args:
        folds: (n,) fold of each image.
        metric_of: gives the metric over the images at these positions.

    Returns:
        The mean; None where a fold's metric is None.
    """
    parts = []
    for fold in np.unique(folds):
        rows = np.flatnonzero(folds == fold)
        if (part := metric_of(rows)) is None:
            return None
        phi, counted = np.zeros(len(folds)), np.zeros(len(folds), dtype=bool)
        phi[rows], counted[rows] = part.phi, part.counted
        parts.append(Influence(part.value, phi, counted, part.size, part.limits, part.is_mean_loss))
    return mean_influence(parts)


def _share(hit: NDArray[np.bool_], counted: NDArray[np.bool_]) -> Influence:
    n = int(counted.sum())
    value = int((hit & counted).sum()) / n
    return Influence(value, np.where(counted, hit - value, 0.0) / n, counted, float(n))


def _share_or_none(hit: NDArray[np.bool_], counted: NDArray[np.bool_]) -> Influence | None:
    return _share(hit, counted) if counted.any() else None


def _mean_share(hit: NDArray[np.bool_], cells: NDArray[np.int64], classes: int) -> Influence:
    """Share of hits in each cell (class index of an image), summed over the cells and divided by ``classes``."""
    n = np.bincount(cells)
    share = np.bincount(cells, weights=hit) / np.maximum(n, 1)
    phi = (hit - share[cells]) / (n[cells] * classes)
    return Influence(float(share.sum()) / classes, phi, np.ones(len(cells), dtype=bool), _harmonic_size(n[n > 0]))


def _mean_loss(losses: NDArray[np.float64], largest: float) -> Influence:
    n, value = len(losses), float(losses.mean())
    return Influence(value, (losses - value) / n, np.ones(n, dtype=bool), float(n), (0.0, largest), is_mean_loss=True)


def _harmonic_size(sizes: NDArray[np.int64] | NDArray[np.float64]) -> float:
    """Images behind a mean of k shares with n_c images each: k^2 / sum(1 / n_c)."""
    return float(len(sizes) ** 2 / (1 / sizes).sum())
