"""Points of an evaluation's curves: ROC of each class, reliability, and accuracy against the share set aside."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from overlay.evaluation.charts import RocCurve
from overlay.evaluation.reliability import ReliabilityBins, reliability

_STEPS = 200
# The accuracy of fewer images jumps with each of them.
_LEAST_REST = 5


@dataclass(frozen=True, eq=False)
class EvaluationCurves:
    """Curves of one set of predictions."""

    roc: tuple[RocCurve, ...]
    """of the classes that have images, and not all of them"""
    reliability: ReliabilityBins
    set_aside: NDArray[np.float64]
    """(k,) shares of the images, the least sure ones, from 0 on"""
    accuracy_of_rest: NDArray[np.float64]
    """(k,)"""


def compute_curves(
    labels: NDArray[np.int64], probabilities: NDArray[np.float64], classes: Sequence[str]
) -> EvaluationCurves:
    """Compute the curves of (n,) class indices and (n, C) probabilities, n at least 1."""
    from sklearn.metrics import roc_auc_score, roc_curve

    roc = []
    for index, name in enumerate(classes):
        positive = labels == index
        if 0 < positive.sum() < len(labels):
            false_positives, true_positives, _ = roc_curve(positive, probabilities[:, index])
            area = float(roc_auc_score(positive, probabilities[:, index]))
            roc.append(RocCurve(name, area, false_positives, true_positives))
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    set_aside, accuracy = accuracy_without_least_sure(confidence, right)
    return EvaluationCurves(tuple(roc), reliability(confidence, right), set_aside, accuracy)


def accuracy_without_least_sure(
    confidence: NDArray[np.float64], right: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return shares set aside and the accuracy of the rest, (k,) each, down to the last five images.

    Images of the same confidence are set aside together, since nothing puts them in an order.
    """
    n = len(confidence)
    order = np.argsort(confidence, kind="stable")
    rest = np.cumsum(right[order][::-1])[::-1] / np.arange(n, 0, -1)
    starts = np.flatnonzero(np.diff(confidence[order], prepend=-1.0) > 0)
    starts = starts[(starts <= n - _LEAST_REST) | (starts == 0)]
    chosen = starts[np.unique(np.linspace(0, len(starts) - 1, min(len(starts), _STEPS)).round().astype(np.intp))]
    return chosen / n, rest[chosen]
