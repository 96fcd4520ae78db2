"""Reliability diagram and expected calibration error (ECE) of a classifier's confidence."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class ReliabilityBins:
    """Mean confidence and accuracy in bins of equal width over [0, 1], each including its upper edge."""

    images: NDArray[np.int64]
    """(bins,)"""
    confidence: NDArray[np.float64]
    """(bins,) mean; NaN for an empty bin"""
    accuracy: NDArray[np.float64]
    """(bins,) share of right answers; NaN for an empty bin"""
    expected_calibration_error: float
    """mean distance of the two, weighted by images; never 0 for a finite set, about 0.07 of a perfectly calibrated
    classifier on 117 images, so that it is no headline"""


def reliability(confidence: NDArray[np.float64], right: NDArray[np.bool_], bins: int = 10) -> ReliabilityBins:
    """Bin (n,) confidences in [0, 1] against whether the answers are right (Guo et al. 2017, ICML, section 2)."""
    edges = np.linspace(0, 1, bins + 1)
    place = np.searchsorted(edges[1:-1], confidence, side="left")
    images = np.bincount(place, minlength=bins)
    filled = np.where(images > 0, images, np.nan)
    mean = np.bincount(place, weights=confidence, minlength=bins) / filled
    share = np.bincount(place, weights=right, minlength=bins) / filled
    error = float(np.nansum(np.abs(mean - share) * images)) / len(confidence)
    return ReliabilityBins(images.astype(np.int64), mean, share, error)
