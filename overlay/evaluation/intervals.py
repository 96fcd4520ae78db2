"""Confidence intervals (95 %) of metrics and of paired differences, over groups of dependent images.

A share (accuracy, recall, F1, AUROC) has the effective-sample-size Wilson interval of survey statistics: the number of
images is replaced by n_e, the number of independent ones that would give the same standard error (Kott & Carr 1997;
Franco et al. 2019, J. Surv. Stat. Methodol. 7:334), and z by the t quantile of G - 1 for G groups. A mean loss (log
loss, Brier score) has a t interval. The standard error comes from sums of influence functions over groups.

Over the folds of a cross-validation, counts are pooled: give the images of all folds at once. An AUROC is taken in each
fold and averaged: ``influence.fold_mean_influence``.

A percentile bootstrap over groups is no substitute at the size of a test set: where few images are wrong it holds the
true accuracy in far fewer than 95 % of the cases (tests/overlay/evaluation/test_intervals.py has the coverages).

``groups`` is (n,) non-negative integers, equal for images of one group, without large gaps.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from overlay.evaluation.influence import Influence

_UPPER = 0.975
# Group sums that are 0 in exact arithmetic come out at 1e-17; the least real one, 1 / n^2, is larger for n below 1e6.
_ROUNDING = 1e-13


@dataclass(frozen=True)
class Estimate:
    """Value of a metric with its 95 % interval."""

    value: float
    low: float
    high: float
    n_effective: float
    """number of independent images that would give the same standard error; at most ``images``"""
    images: int
    """images that the metric counts: of a recall, those of its class"""
    groups: int
    """groups with at least one of these images"""


@dataclass(frozen=True)
class PairedDifference:
    """Candidate's metric minus the reference's on the same images, with its 95 % interval."""

    value: float
    low: float
    high: float
    correlation: float
    """of the two metrics' group sums; 0 where one of them has no spread"""


def estimate_metric(metric: Influence, groups: NDArray[np.int64]) -> Estimate:
    """Return a metric's value with its group-aware 95 % interval.

    With one group nothing is known about the spread, and the interval is all that the metric can be.
    """
    members = np.bincount(groups[metric.counted])
    members = members[members > 0]
    n, count = int(members.sum()), len(members)
    quantile = t_quantile(count)
    variance = _variance(metric, groups, count)
    spread = float((metric.phi**2).sum()) * n if metric.is_mean_loss else metric.value * (1 - metric.value)
    if spread > 0 and variance > 0:
        n_effective = min(float(n), spread / variance)
    else:
        design_effect = float((members.astype(np.float64) ** 2).sum()) / n
        n_effective = min(float(n), metric.size / design_effect)
    if metric.is_mean_loss:
        # One group has no standard error; inf * 0 would be NaN.
        half = quantile * math.sqrt(variance) if count > 1 else math.inf
        low, high = max(metric.value - half, metric.limits[0]), min(metric.value + half, metric.limits[1])
    else:
        low, high = wilson_interval(metric.value, n_effective, quantile)
    return Estimate(metric.value, low, high, n_effective, n, count)


def paired_difference(candidate: Influence, reference: Influence, groups: NDArray[np.int64]) -> PairedDifference:
    """Return the difference of a metric between two models on the same images, with its 95 % MOVER interval."""
    ours, theirs = np.bincount(groups, candidate.phi), np.bincount(groups, reference.phi)
    spread = math.sqrt(float((ours**2).sum()) * float((theirs**2).sum()))
    correlation = float((ours * theirs).sum()) / spread if spread > _ROUNDING**2 else 0.0
    return mover_interval(
        estimate_metric(candidate, groups), estimate_metric(reference, groups), min(1.0, max(-1.0, correlation))
    )


def mover_interval(candidate: Estimate, reference: Estimate, correlation: float) -> PairedDifference:
    """Return the interval of a difference from the intervals of its two terms (MOVER, method of variance estimates).

    Newcombe 1998, Stat. Med. 17:2635, method 10, with any two intervals and any correlation: Zou & Donner 2008, Stat.
    Med. 27:1693.
    """

    def distance(of_candidate: float, of_reference: float) -> float:
        square = of_candidate**2 - 2 * correlation * of_candidate * of_reference + of_reference**2
        return math.sqrt(max(square, 0.0))

    value = candidate.value - reference.value
    down = distance(candidate.value - candidate.low, reference.high - reference.value)
    up = distance(candidate.high - candidate.value, reference.value - reference.low)
    return PairedDifference(value, value - down, value + up, correlation)


def wilson_interval(share: float, n: float, quantile: float) -> tuple[float, float]:
    """Return Wilson's score interval of a share (Wilson 1927, JASA 22:209).

    Args:
        share: in [0, 1].
        n: number of independent images behind it, above 0, not necessarily whole.
        quantile: of the normal or of Student's t distribution; infinite for an interval of (0, 1).
    """
    if math.isinf(quantile):
        return 0.0, 1.0
    square = quantile**2
    centre = (2 * n * share + square) / (2 * (n + square))
    half = quantile * math.sqrt(square + 4 * n * share * (1 - share)) / (2 * (n + square))
    # Rounding must put neither end outside of [0, 1] nor beyond the share itself.
    return min(max(centre - half, 0.0), share), max(min(centre + half, 1.0), share)


def t_quantile(groups: int) -> float:
    """Return the 97.5 % quantile of Student's t with ``groups`` - 1 degrees of freedom; infinite for one group."""
    return float(stdtrit(groups - 1, _UPPER)) if groups > 1 else math.inf


def _variance(metric: Influence, groups: NDArray[np.int64], count: int) -> float:
    """Squared standard error, G / (G - 1) * sum of the squared group sums; 0 where that is rounding error."""
    if count < 2:
        return 0.0
    square = float((np.bincount(groups, metric.phi) ** 2).sum())
    floor = _ROUNDING * float(np.abs(metric.phi).sum())
    return count / (count - 1) * square if square > floor**2 else 0.0
