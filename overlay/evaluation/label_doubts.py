"""Doubted labels by confident learning: images whose label an out-of-fold model contradicts with confidence.

Northcutt, Jiang & Chuang 2021, J. Artif. Intell. Res. 70:1373. The probabilities of an image must come from a model
that was not trained on it; a model that saw the image has learnt its label, wrong or not.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# A threshold is a mean, which can exceed equal probabilities by rounding error.
_ROUNDING = 1e-6


@dataclass(frozen=True, eq=False)
class LabelDoubts:
    """Confident joint of given and likely classes, and the images off its diagonal."""

    thresholds: NDArray[np.float64]
    """(C,) mean probability of a class over the images labelled so; infinite for a class without images"""
    joint: NDArray[np.int64]
    """(C, C) counts, rows the given class, columns the one that the model is confident of"""
    images: NDArray[np.intp]
    """(m,) positions of the doubted images, the largest margin first"""
    suggested: NDArray[np.intp]
    """(m,) class index that the model is confident of"""
    margin: NDArray[np.float64]
    """(m,) probability of the suggested class minus that of the given one"""


def label_doubts(labels: NDArray[np.int64], probabilities: NDArray[np.float64]) -> LabelDoubts:
    """Find the images that count off the diagonal of the confident joint.

    An image is confidently of the most probable one among the classes whose probability is at least their threshold; an
    image without such a class is not counted.

    Args:
        labels: (n,) given class indices.
        probabilities: (n, C) out-of-fold probabilities.
    """
    n, classes = probabilities.shape
    per_class = np.bincount(labels, minlength=classes)
    given = probabilities[np.arange(n), labels]
    totals = np.bincount(labels, weights=given, minlength=classes)
    thresholds = np.where(per_class > 0, totals / np.maximum(per_class, 1), np.inf)

    confident = np.where(probabilities >= thresholds - _ROUNDING, probabilities, -1.0)
    likely = confident.argmax(axis=1)
    counted = confident.max(axis=1) >= 0
    joint = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(joint, (labels[counted], likely[counted]), 1)

    images = np.flatnonzero(counted & (likely != labels))
    margin = probabilities[images, likely[images]] - given[images]
    order = np.argsort(-margin, kind="stable")
    return LabelDoubts(thresholds, joint, images[order], likely[images][order], margin[order])
