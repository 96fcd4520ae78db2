"""Answers of a model to evaluated images: labels, predicted classes, groups, flags of the positive class."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class EvaluatedAnswers:
    """Answers to n evaluated images."""

    labels: NDArray[np.int64]
    """(n,) class indices"""
    predicted: NDArray[np.int64]
    """(n,) class indices"""
    groups: NDArray[np.int64]
    """(n,) equal for images of one group"""
    positive: NDArray[np.bool_] | None = None
    """(n,) whether the image is of the positive class; None where there is no such class"""
    flagged: NDArray[np.bool_] | None = None
    """(n,) whether the model calls it positive, at its threshold where it has one"""
