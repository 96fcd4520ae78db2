import numpy as np
import pyarrow as pa
import pytest

from overlay.evaluation.estimates import compute_evaluation
from overlay.evaluation.intervals import Estimate
from overlay.evaluation.outcome import (
    ScoredLabels,
    describe_calibration,
    labels_of_predictions,
    measure_calibration,
    measure_operating_point,
    measure_uncertain,
)
from overlay.models.model_file import CalibratedOn, ModelCard

CLASSES = ("benign", "malignant")
SCORES = np.array([0.9, 0.8, 0.55, 0.4, 0.3, 0.7, 0.5, 0.35, 0.2, 0.15, 0.1, 0.05, 0.02, 0.01, 0.0])
LABELS = np.array([1] * 5 + [0] * 10)
SCORED = ScoredLabels(LABELS, np.stack([1 - SCORES, SCORES], axis=1), np.arange(15))


def card(**changes: object) -> ModelCard:
    fields = ("resnet18", CLASSES, 32, "squash", (0.5,) * 3, (0.5,) * 3, None, "", "", "")
    return ModelCard(*fields, **changes)  # type: ignore[arg-type]


def value(found: Estimate | None) -> float:
    assert found is not None
    return found.value


def test_sensitivity_and_specificity_at_the_threshold_of_the_card() -> None:
    """The operating points of the specification's 12th known answer."""
    found = measure_operating_point(card(positive="malignant", threshold=0.55, threshold_n=7), SCORED)
    assert found is not None
    assert (value(found.sensitivity), value(found.specificity), found.flagged) == (0.6, 0.9, 4)
    assert (found.positive, found.threshold, found.threshold_n) == ("malignant", 0.55, 7)
    found = measure_operating_point(card(positive="malignant", threshold=0.4, threshold_n=7), SCORED)
    assert found is not None
    assert (value(found.sensitivity), value(found.specificity)) == (0.8, 0.8)
    assert found.sensitivity is not None
    assert (found.sensitivity.images, found.sensitivity.low < 0.8 < found.sensitivity.high) == (5, True)


def test_no_operating_point_without_a_threshold_and_no_sensitivity_without_positive_images() -> None:
    assert measure_operating_point(card(), SCORED) is None
    negative = ScoredLabels(LABELS[5:], SCORED.probabilities[5:], np.arange(10))
    found = measure_operating_point(card(positive="malignant", threshold=0.4, threshold_n=1), negative)
    assert found is not None
    assert (found.sensitivity, value(found.specificity)) == (None, 0.8)


def test_uncertain_images_and_the_accuracy_of_the_rest() -> None:
    """Below 0.65: 0.55, 0.4, 0.5 and the negative of 0.35 is 0.65 itself, which is sure."""
    found = measure_uncertain(card(uncertain_below=0.65), SCORED)
    assert found is not None
    assert value(found.share) == 3 / 15
    assert value(found.accuracy_of_rest) == 10 / 12
    assert measure_uncertain(card(), SCORED) is None
    none_sure = measure_uncertain(card(uncertain_below=1.1), SCORED)
    assert none_sure is not None
    assert none_sure.accuracy_of_rest is None


def test_calibration_is_compared_with_temperature_1_and_with_the_class_shares() -> None:
    logits = np.tile([3.0, 0.0, 0.0], (5, 1))
    labels, fitted = np.array([0, 0, 0, 0, 1]), 3 / np.log(8)
    powers = np.exp(logits / fitted)
    scored = ScoredLabels(labels, powers / powers.sum(axis=1, keepdims=True), np.arange(5))
    described = ModelCard(
        *("resnet18", ("a", "b", "c"), 32, "squash", (0.5,) * 3, (0.5,) * 3, None, "", "", ""),
        temperature=fitted,
        calibrated_on=CalibratedOn(5, 1, "fitted"),
    )
    found = measure_calibration(described, scored, [2, 1, 1])
    assert found is not None
    assert found.log_loss_uncalibrated.value == pytest.approx(0.6949229564, abs=1e-10)
    calibrated = compute_evaluation(labels, scored.probabilities, described.classes).log_loss.value
    assert calibrated == pytest.approx(0.6390318597, abs=1e-10)
    assert value(found.log_loss_of_shares) == pytest.approx((4 * np.log(2) + np.log(4)) / 5)
    assert found.reliability_uncalibrated.confidence[9] == pytest.approx(np.exp(3) / (np.exp(3) + 2))
    assert found.fitted_on == "fitted on 5 validation images, which also chose the epoch, with 1 mistakes"
    without_training = measure_calibration(described, scored, [0, 0, 0])
    assert without_training is not None
    assert without_training.log_loss_of_shares is None
    assert measure_calibration(card(), SCORED, [1, 1]) is None


def test_why_a_temperature_was_not_fitted() -> None:
    assert describe_calibration(card()) == "not calibrated"
    few = card(calibrated_on=CalibratedOn(9, 2, "too few mistakes"))
    assert describe_calibration(few).startswith("left at 1 (too few mistakes) on 9 validation images, which also chose")


def test_arrays_of_a_table_of_predictions() -> None:
    table = pa.table(
        {
            "id": ["1", "2", "3", "4"],
            "true_label": ["malignant", "benign", "benign", "benign"],
            "group": ["p", None, "p", "2"],
            "prob_benign": pa.array([0.25, 1, 0.5, 0], pa.float32()),
            "prob_malignant": pa.array([0.75, 0, 0.5, 1], pa.float32()),
        }
    )
    found = labels_of_predictions(table, CLASSES)
    assert found.labels.tolist() == [1, 0, 0, 0]
    assert found.predicted.tolist() == [1, 0, 0, 1]
    # A row without a group is its own, also where another group has its id for a name.
    assert found.groups[0] == found.groups[2]
    assert len(set(found.groups.tolist())) == 3
