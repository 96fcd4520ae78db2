"""Calibration on the validation split: temperature scaling, threshold of uncertainty, operating point.

All functions take arrays. Logarithms of probabilities serve as logits, since softmax takes no notice of a constant that
is added to a row.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import logsumexp, softmax

LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE = 0.25, 10.0
LEAST_MISTAKES = 5
# Keeps a share times a count from falling on the other side of a whole number by rounding (0.07 * 100 > 7).
_ROUNDING = 1e-9
# Slope at 1/T = 0, as a share of the largest logit, that is no more than the rounding of a sum that is exactly 0.
_FLAT = 1e-13


@dataclass(frozen=True)
class Temperature:
    """Temperature of a softmax and what it was calibrated on."""

    value: float
    """1 where it was not fitted"""
    outcome: Literal["fitted", "too few mistakes", "diverged"]
    images: int
    mistakes: int
    log_loss_before: float
    """nats, on the images that it was fitted on, as is ``log_loss_after``"""
    log_loss_after: float


@dataclass(frozen=True)
class OperatingPoint:
    """Threshold of the positive class's score, with what it reaches on the images that it was chosen on."""

    threshold: float
    """an image is flagged where its score is this or higher"""
    sensitivity: float
    specificity: float | None
    """None without negative images"""
    positives: int
    negatives: int


def fit_temperature(logits: NDArray[np.float64], labels: NDArray[np.int64]) -> Temperature:
    """Fit a temperature by validation log loss (Guo et al. 2017, ICML), or leave it at 1.

    It stays at 1 with fewer than 5 mistakes, where chance decides, and where the fit diverges (``best_temperature``).

    Args:
        logits: (n, C) finite; n at least 1.
        labels: (n,) true class indices.
    """
    mistakes = int((logits.argmax(axis=1) != labels).sum())
    fitted = best_temperature(logits, labels)
    before = tempered_log_loss(logits, labels, 1.0)
    if mistakes < LEAST_MISTAKES:
        return Temperature(1.0, "too few mistakes", len(labels), mistakes, before, before)
    if fitted is None:
        return Temperature(1.0, "diverged", len(labels), mistakes, before, before)
    return Temperature(fitted, "fitted", len(labels), mistakes, before, tempered_log_loss(logits, labels, fitted))


def best_temperature(logits: NDArray[np.float64], labels: NDArray[np.int64]) -> float | None:
    """Return the temperature in [1/4, 10] with the lowest log loss; None where no finite one has it.

    The loss is convex in 1/T. Its slope never reaches 0 where every true class has its row's largest logit (T runs to
    0), nor where the true classes' logits are on average no larger than the other ones' (T runs to infinity).
    """
    chosen = logits[np.arange(len(labels)), labels]

    def slope(inverse: float) -> float:
        """Derivative of the log loss in 1/T: mean expected logit minus mean true logit."""
        expected = (softmax(inverse * logits, axis=1) * logits).sum(axis=1)
        return float((expected - chosen).mean())

    if (chosen == logits.max(axis=1)).all() or slope(0.0) >= -_FLAT * np.abs(logits).max():
        return None
    coldest, hottest = 1 / LOWEST_TEMPERATURE, 1 / HIGHEST_TEMPERATURE
    if slope(coldest) <= 0:
        return LOWEST_TEMPERATURE
    if slope(hottest) >= 0:
        return HIGHEST_TEMPERATURE
    return 1 / float(brentq(slope, hottest, coldest, xtol=1e-14, rtol=1e-14))


def tempered_log_loss(logits: NDArray[np.float64], labels: NDArray[np.int64], temperature: float) -> float:
    """Return the mean log loss in nats of (n, C) logits divided by a temperature."""
    scaled = logits / temperature
    return float((logsumexp(scaled, axis=1) - scaled[np.arange(len(labels)), labels]).mean())


def uncertain_below(confidence: NDArray[np.float64], share: float) -> float | None:
    """Return the confidence below which at most a share of the (n,) validation images lie, as near to it as they let.

    None where the share is 0 or that of less than one image.

    Args:
        confidence: (n,) largest probability of each image, after the temperature.
        share: in [0, 1).
    """
    count = int(share * len(confidence) + _ROUNDING)
    return float(np.sort(confidence)[count]) if count > 0 else None


def point_of_sensitivity(
    positive: NDArray[np.bool_], scores: NDArray[np.float64], sensitivity: float
) -> OperatingPoint | None:
    """Return the highest threshold with at least this sensitivity, in (0, 1]; None without a positive image.

    Args:
        positive: (n,) whether the image is of the positive class.
        scores: (n,) its probability of that class.
        sensitivity: share of the positive images to flag.
    """
    falling = np.sort(scores[positive])[::-1]
    if len(falling) == 0:
        return None
    needed = max(1, int(np.ceil(sensitivity * len(falling) - _ROUNDING)))
    return _operating_point(positive, scores, float(falling[needed - 1]))


def point_of_specificity(
    positive: NDArray[np.bool_], scores: NDArray[np.float64], specificity: float
) -> OperatingPoint | None:
    """Return the lowest threshold at a positive image's score with at least this specificity, in [0, 1].

    None without a positive or a negative image, and where every threshold that is high enough flags no positive image.
    """
    rising, negative = np.sort(scores[positive]), np.sort(scores[~positive])
    if len(negative) == 0:
        return None
    reached = np.searchsorted(negative, rising, side="left") >= specificity * len(negative) - _ROUNDING
    return _operating_point(positive, scores, float(rising[reached.argmax()])) if reached.any() else None


def _operating_point(positive: NDArray[np.bool_], scores: NDArray[np.float64], threshold: float) -> OperatingPoint:
    flagged = scores >= threshold
    positives, negatives = int(positive.sum()), int((~positive).sum())
    hits, rejected = int((flagged & positive).sum()), int((~flagged & ~positive).sum())
    specificity = rejected / negatives if negatives else None
    return OperatingPoint(threshold, hits / positives, specificity, positives, negatives)
