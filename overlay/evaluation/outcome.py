"""Results of a model at its card's thresholds: operating point, uncertain images, calibration."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from overlay.dataset.rows import group_codes
from overlay.evaluation.answers import EvaluatedAnswers
from overlay.evaluation.influence import (
    Influence,
    accuracy_influence,
    log_loss_influence,
    sensitivity_influence,
    specificity_influence,
)
from overlay.evaluation.intervals import Estimate, estimate_metric
from overlay.evaluation.reliability import ReliabilityBins, reliability
from overlay.evaluation.report_data import CalibrationResult, OperatingResult, UncertainResult
from overlay.models.calibrated_model import temper_probabilities
from overlay.models.model_file import ModelCard


@dataclass(frozen=True, eq=False)
class ScoredLabels:
    """Labels and probabilities of n evaluated images, in the order of their ids."""

    labels: NDArray[np.int64]
    """(n,) indices of the true classes in the model's"""
    probabilities: NDArray[np.float64]
    """(n, C)"""
    groups: NDArray[np.int64]
    """(n,) equal for images of one group"""

    @property
    def predicted(self) -> NDArray[np.int64]:
        """(n,) indices of the predicted classes."""
        answers: NDArray[np.int64] = self.probabilities.argmax(axis=1)
        return answers


def labels_of_predictions(predictions: pa.Table, classes: Sequence[str]) -> ScoredLabels:
    """Return the arrays of a table of predictions with ``id``, ``true_label``, ``group`` and the probabilities."""
    position = {name: index for index, name in enumerate(classes)}
    return ScoredLabels(
        labels=np.array([position[label] for label in predictions["true_label"].to_pylist()]),
        probabilities=np.stack([predictions[f"prob_{name}"].to_numpy() for name in classes], axis=1).astype(np.float64),
        groups=group_codes(predictions["group"].to_pylist(), predictions["id"].to_pylist()),
    )


def answers_at_threshold(card: ModelCard, scored: ScoredLabels) -> EvaluatedAnswers:
    """Return the predicted classes, and the flags at the card's threshold where it has one."""
    positive = flagged = None
    if card.flag is not None:
        positive, flagged = _flags(*card.flag, card, scored)
    return EvaluatedAnswers(scored.labels, scored.predicted, scored.groups, positive, flagged)


def measure_operating_point(card: ModelCard, scored: ScoredLabels) -> OperatingResult | None:
    """Measure sensitivity and specificity at the card's threshold; None for a card without one."""
    if card.flag is None:
        return None
    name, threshold = card.flag
    positive, flagged = _flags(name, threshold, card, scored)
    return OperatingResult(
        positive=name,
        threshold=threshold,
        threshold_n=card.threshold_n,
        sensitivity=_estimate(sensitivity_influence(positive, flagged), scored.groups),
        specificity=_estimate(specificity_influence(positive, flagged), scored.groups),
        flagged=int(flagged.sum()),
    )


def measure_uncertain(card: ModelCard, scored: ScoredLabels) -> UncertainResult | None:
    """Measure the share of uncertain images, and the accuracy on the rest; None for a card without that threshold."""
    if card.uncertain_below is None:
        return None
    uncertain = scored.probabilities.max(axis=1).astype(np.float32) < np.float32(card.uncertain_below)
    share = sensitivity_influence(np.ones(len(uncertain), np.bool_), uncertain)
    assert share is not None  # there is an image
    sure = ~uncertain
    rest = accuracy_influence(scored.labels[sure], scored.predicted[sure]) if sure.any() else None
    return UncertainResult(
        card.uncertain_below, estimate_metric(share, scored.groups), _estimate(rest, scored.groups[sure])
    )


def measure_calibration(card: ModelCard, scored: ScoredLabels, train_counts: Sequence[int]) -> CalibrationResult | None:
    """Compare the probabilities with those at temperature 1, and with the class shares of the training split.

    None for a model that was not calibrated. ``train_counts``: training images of each class of the card.
    """
    if card.calibrated_on is None:
        return None
    before = temper_probabilities(scored.probabilities, 1 / card.temperature)
    shares = np.array(train_counts, np.float64)
    always = None
    if shares.sum():
        repeated = np.broadcast_to(shares / shares.sum(), scored.probabilities.shape)
        always = estimate_metric(log_loss_influence(scored.labels, repeated), scored.groups)
    return CalibrationResult(
        temperature=card.temperature,
        fitted_on=describe_calibration(card),
        log_loss_uncalibrated=estimate_metric(log_loss_influence(scored.labels, before), scored.groups),
        log_loss_of_shares=always,
        reliability=_reliability(scored.labels, scored.probabilities),
        reliability_uncalibrated=_reliability(scored.labels, before),
    )


def describe_calibration(card: ModelCard) -> str:
    """Return what a card's temperature was fitted on in words, to follow the temperature."""
    if (found := card.calibrated_on) is None:
        return "not calibrated"
    images = f"{found.images} validation images, which also chose the epoch, with {found.mistakes} mistakes"
    return f"fitted on {images}" if found.outcome == "fitted" else f"left at 1 ({found.outcome}) on {images}"


def _flags(
    name: str, threshold: float, card: ModelCard, scored: ScoredLabels
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Whether each image is of the positive class, and whether it is flagged."""
    index = card.classes.index(name)
    # The column `flag` of predictions compares as float32, in which the probabilities are stored.
    return scored.labels == index, scored.probabilities[:, index].astype(np.float32) >= np.float32(threshold)


def _estimate(metric: Influence | None, groups: NDArray[np.int64]) -> Estimate | None:
    return None if metric is None else estimate_metric(metric, groups)


def _reliability(labels: NDArray[np.int64], probabilities: NDArray[np.float64]) -> ReliabilityBins:
    return reliability(probabilities.max(axis=1), probabilities.argmax(axis=1) == labels)
