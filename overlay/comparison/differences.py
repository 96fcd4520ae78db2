"""Paired differences of candidates to a reference, with intervals and tests: the rows of comparison.parquet.

Over folds, the p-value of a difference between two ways of training is that of the corrected resampled t test
(``p_method``); between these trained models, or two finished ones, that of the group flips (``p_models``). The first,
where there is one, else the second, is adjusted by Holm's method over the candidates (``p_holm``). No other pair of
candidates is tested.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from overlay.comparison.answers import LOWER_IS_BETTER, Answers, ComparedImages, metric_influence
from overlay.config import COMPARISON_METRICS, ComparisonMetric
from overlay.evaluation import flips, paired_tests
from overlay.evaluation.influence import Influence, log_loss_influence
from overlay.evaluation.intervals import paired_difference
from overlay.evaluation.paired_tests import FlipsTest


@dataclass(frozen=True)
class MetricDifference:
    """Row of comparison.parquet: a candidate's metric minus the reference's on the same images."""

    candidate: str
    reference: str
    metric: ComparisonMetric
    difference: float
    low: float
    """end of the 95 % interval, as ``high``"""
    high: float
    p_method: float | None
    """corrected resampled t test over the trainings; None without folds"""
    p_models: float
    """flips of the two models' answers, group by group"""
    p_holm: float
    """p_method, or p_models without it, adjusted over all candidates by Holm's method"""
    only_candidate_right: int
    """rows that the candidate alone classifies correctly"""
    only_reference_right: int
    images: int
    groups: int

    @property
    def is_better(self) -> bool:
        """Whether the candidate's value is the better one."""
        return (self.difference < 0) if self.metric in LOWER_IS_BETTER else (self.difference > 0)


def compare_answers(
    images: ComparedImages, answers: Mapping[str, Answers], reference: str, folds: int | None
) -> list[MetricDifference]:
    """Compare each candidate with the reference in every metric that is defined for both.

    Args:
        images: the n rows.
        answers: candidate -> its answers, the reference's among them.
        reference: name of the reference.
        folds: number of folds; None for finished models on one split.
    """
    rows = []
    for metric in COMPARISON_METRICS:
        found = [
            row
            for name in answers
            if name != reference and (row := _compare_pair(metric, images, answers, (name, reference), folds))
        ]
        p = np.array([row.p_models if row.p_method is None else row.p_method for row in found])
        rows += [
            replace(row, p_holm=float(adjusted)) for row, adjusted in zip(found, paired_tests.holm(p), strict=True)
        ]
    return rows


def _compare_pair(
    metric: ComparisonMetric,
    images: ComparedImages,
    answers: Mapping[str, Answers],
    pair: tuple[str, str],
    folds: int | None,
) -> MetricDifference | None:
    candidate, reference = (answers[name] for name in pair)
    ours, theirs = metric_influence(metric, images, candidate), metric_influence(metric, images, reference)
    if ours is None or theirs is None:
        return None
    difference = paired_difference(ours, theirs, images.groups)
    right, other_right = candidate.predicted == images.labels, reference.predicted == images.labels
    return MetricDifference(
        candidate=pair[0],
        reference=pair[1],
        metric=metric,
        difference=difference.value,
        low=difference.low,
        high=difference.high,
        p_method=None if folds is None else _resampled_p(metric, images, candidate, reference, folds),
        p_models=_flips_test(metric, images, candidate, reference).p,
        p_holm=1.0,
        only_candidate_right=int((right & ~other_right & ours.counted).sum()),
        only_reference_right=int((other_right & ~right & ours.counted).sum()),
        images=int(ours.counted.sum()),
        groups=len(np.unique(images.groups[ours.counted])),
    )


def training_values(metric: ComparisonMetric, images: ComparedImages, answers: Answers) -> NDArray[np.float64]:
    """Return a metric over the test images of each training, (runs,), NaN where it is not defined."""
    runs = images.runs
    parts = (metric_influence(metric, images, answers, np.flatnonzero(runs == run)) for run in range(runs.max() + 1))
    return np.array([np.nan if part is None else part.value for part in parts])


def _resampled_p(
    metric: ComparisonMetric, images: ComparedImages, candidate: Answers, reference: Answers, folds: int
) -> float | None:
    apart = training_values(metric, images, candidate) - training_values(metric, images, reference)
    if not np.isfinite(apart).all():
        return None
    # One fold is for the test and one for validation.
    return paired_tests.corrected_resampled_t(apart, 1 / (folds - 2)).p


def _flips_test(metric: ComparisonMetric, images: ComparedImages, candidate: Answers, reference: Answers) -> FlipsTest:
    labels, groups = images.labels, images.groups
    ours, theirs = candidate.predicted, reference.predicted
    match metric:
        case "accuracy":
            return paired_tests.share_flips_test(ours == labels, theirs == labels, groups)
        case "sensitivity":
            own = labels == images.positive
            return paired_tests.share_flips_test((ours == labels)[own], (theirs == labels)[own], groups[own])
        case "balanced_accuracy":
            return paired_tests.flips_test(flips.balanced_accuracy_flips(labels, ours, theirs, groups))
        case "macro_f1":
            return paired_tests.flips_test(flips.macro_f1_flips(labels, ours, theirs, groups))
        case "log_loss":
            losses = [_losses(log_loss_influence(labels, each.probabilities)) for each in (candidate, reference)]
            return paired_tests.flips_test(flips.sum_flips(losses[0], losses[1], groups))
        case "auroc":
            return paired_tests.flips_test(_auroc_flips(images, candidate, reference))


def _losses(metric: Influence) -> NDArray[np.float64]:
    """Return the (n,) losses, divided by n, behind a mean loss."""
    return metric.phi + metric.value / len(metric.phi)


def _auroc_flips(images: ComparedImages, candidate: Answers, reference: Answers) -> flips.FlippedDifference:
    """Mean over trainings and classes of the AUROC of one class against the rest."""
    rows_of = [np.flatnonzero(images.runs == run) for run in range(images.runs.max() + 1)]
    parts = [
        flips.auroc_flips(
            images.labels[rows] == index,
            candidate.probabilities[rows, index],
            reference.probabilities[rows, index],
            images.groups[rows],
        )
        for rows in rows_of
        for index in range(len(images.classes))
    ]
    return flips.mean_flips(parts)
