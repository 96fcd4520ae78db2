import csv
import json

import numpy as np
import pytest
from hypothesis import given
from numpy.typing import NDArray
from sklearn.metrics import brier_score_loss, classification_report, precision_recall_fscore_support, roc_auc_score

from overlay.errors import WorkError
from overlay.evaluation import estimates, metrics
from overlay.evaluation.estimates import Evaluation, compute_evaluation
from overlay.evaluation.influence import LARGEST_LOG_LOSS
from overlay.evaluation.intervals import Estimate
from tests.overlay.evaluation.test_metrics import LABELS, LAW, PROBABILITIES, as_pairs, confusions

CLASSES = ("benign", "malignant", "normal")


def value(found: Estimate | None) -> float:
    assert found is not None
    return found.value


@LAW
@given(confusions())
def test_training_and_evaluation_give_the_same_numbers(confusion: NDArray[np.int64]) -> None:
    true, predicted = as_pairs(confusion)
    evaluation = compute_evaluation(
        true, np.eye(len(confusion))[predicted], [f"class {i}" for i in range(len(confusion))]
    )
    assert evaluation.accuracy.value == pytest.approx(metrics.accuracy(confusion), abs=1e-12)
    assert evaluation.macro_f1.value == pytest.approx(metrics.macro_f1(confusion), abs=1e-12)
    assert evaluation.confusion == tuple(map(tuple, confusion.tolist()))
    for _, _, found in evaluation.estimates():
        assert found is None or found.low <= found.value <= found.high
    json.dumps(evaluation.to_json(), allow_nan=False)


def test_every_number_of_six_images() -> None:
    evaluation = compute_evaluation(LABELS, PROBABILITIES, CLASSES)
    assert (evaluation.images, evaluation.groups) == (6, 6)
    assert evaluation.accuracy.value == 4 / 6
    assert evaluation.confusion == ((1, 1, 0), (0, 2, 0), (1, 0, 1))
    assert evaluation.balanced_accuracy.value == pytest.approx((1 / 2 + 1 + 1 / 2) / 3)
    benign, malignant, normal = evaluation.per_class
    assert [value(found) for found in (benign.precision, benign.recall, benign.f1)] == [0.5, 0.5, 0.5]
    found = [value(each) for each in (malignant.precision, malignant.recall, malignant.f1)]
    assert found == pytest.approx([2 / 3, 1, 4 / 5])
    assert [value(each) for each in (normal.precision, normal.recall, normal.f1)] == pytest.approx([1, 1 / 2, 2 / 3])
    assert evaluation.macro_f1.value == pytest.approx(59 / 90)
    # The interval that the specification gives for these six images, each a group of its own.
    assert (evaluation.macro_f1.low, evaluation.macro_f1.high) == pytest.approx((0.2022242062, 0.9345972305), abs=1e-10)
    # Of benign's 2 x 4 pairs: 0.8 is above all four; 0.2 is above 0.1 and 0.0, ties with 0.2 and is below 0.5.
    assert value(benign.auroc) == pytest.approx((4 + 2.5) / 8)
    # Of malignant's: 0.6 is above 0.1, 0.2 and 0.1, but below 0.7; 0.9 is above all.
    assert value(malignant.auroc) == pytest.approx(7 / 8)
    assert value(normal.auroc) == 1.0
    assert value(evaluation.auroc) == pytest.approx((6.5 / 8 + 7 / 8 + 1) / 3)
    assert evaluation.log_loss.value == pytest.approx(-np.log([0.8, 0.6, 0.6, 0.2, 0.9, 0.4]).mean())


def test_values_are_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    labels, probabilities = rng.integers(0, 3, 90), rng.dirichlet(np.ones(3), 90)
    evaluation = compute_evaluation(labels, probabilities, CLASSES)
    area = roc_auc_score(labels, probabilities, multi_class="ovr", average="macro")
    assert value(evaluation.auroc) == pytest.approx(area, abs=1e-12)
    brier = brier_score_loss(labels, probabilities, scale_by_half=False)
    assert evaluation.brier.value == pytest.approx(brier, abs=1e-12)
    macro = precision_recall_fscore_support(labels, probabilities.argmax(axis=1), average="macro")[:3]
    found = (evaluation.macro_precision.value, evaluation.macro_recall.value, evaluation.macro_f1.value)
    assert found == pytest.approx(macro, abs=1e-12)


def test_groups_widen_the_interval() -> None:
    rng = np.random.default_rng(0)
    labels, probabilities = rng.integers(0, 3, 60), rng.dirichlet(np.ones(3), 60)
    alone = compute_evaluation(labels, probabilities, CLASSES)
    twice = np.concatenate([labels, labels]), np.concatenate([probabilities, probabilities])
    grouped = compute_evaluation(*twice, CLASSES, np.tile(np.arange(60), 2))
    assert (grouped.images, grouped.groups, grouped.accuracy.images) == (120, 60, 120)
    assert (grouped.accuracy.low, grouped.accuracy.high) == pytest.approx((alone.accuracy.low, alone.accuracy.high))
    assert (grouped.log_loss.low, grouped.log_loss.high) == pytest.approx((alone.log_loss.low, alone.log_loss.high))


def test_an_absent_class_has_no_auroc_and_makes_the_mean_undefined() -> None:
    seen = LABELS < 2
    evaluation = compute_evaluation(LABELS[seen], PROBABILITIES[seen], CLASSES)
    assert [scores.auroc is None for scores in evaluation.per_class] == [False, False, True]
    assert evaluation.auroc is None
    assert (evaluation.per_class[2].support, evaluation.per_class[2].recall) == (0, None)
    assert evaluation.balanced_accuracy.value == pytest.approx((1 / 2 + 1) / 2)
    assert json.loads(json.dumps(evaluation.to_json(), allow_nan=False))["auroc"] is None


def test_a_dataset_with_fewer_classes_is_measured_over_these() -> None:
    """An answer of the class that the dataset has not is wrong, but its F1 of 0 enters no mean."""
    labels = np.array([0, 0, 1, 1])
    probabilities = np.array([[0.9, 0.1, 0], [0.1, 0.2, 0.7], [0.2, 0.8, 0], [0.1, 0.9, 0]])
    evaluation = compute_evaluation(labels, probabilities, CLASSES, counted=("benign", "malignant"))
    assert evaluation.accuracy.value == 3 / 4
    assert evaluation.macro_f1.value == pytest.approx((2 / 3 + 1) / 2)
    assert compute_evaluation(labels, probabilities, CLASSES).macro_f1.value == pytest.approx((2 / 3 + 1) / 3)
    # Of benign's 2 x 2 pairs: 0.9 is above both; 0.1 is below 0.2 and ties with 0.1.
    assert value(evaluation.auroc) == pytest.approx((2.5 / 4 + 1) / 2)
    assert evaluation.confusion == ((1, 0, 1), (0, 2, 0), (0, 0, 0))


def test_metrics_json_holds_plain_values_and_the_intervals_as_rows() -> None:
    content = json.loads(json.dumps(compute_evaluation(LABELS, PROBABILITIES, CLASSES).to_json(), allow_nan=False))
    assert (content["classes"], content["images"], content["accuracy"]) == (list(CLASSES), 6, 4 / 6)
    assert content["confusion"] == [[1, 1, 0], [0, 2, 0], [1, 0, 1]]
    assert content["per_class"][1] == {
        "name": "malignant",
        "precision": pytest.approx(2 / 3),
        "recall": 1.0,
        "f1": pytest.approx(0.8),
        "support": 2,
        "auroc": 0.875,
    }
    rows = {(row["metric"], row["class"]): row for row in content["estimates"]}
    assert len(rows) == 8 + 3 * 4
    assert rows["macro_f1", None]["low"] == pytest.approx(0.2022242062, abs=1e-10)
    assert rows["recall", "malignant"]["images"] == 2


def test_the_rounding_of_a_float32_softmax_is_no_error() -> None:
    logits = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    softmax = (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)).astype(np.float64)
    labels = np.arange(50) % 3
    evaluation = compute_evaluation(labels, softmax, CLASSES)
    assert evaluation.log_loss.value == pytest.approx(-np.log(softmax[np.arange(50), labels]).mean(), abs=1e-12)


def test_a_true_class_of_probability_0_costs_what_the_documentation_says() -> None:
    probabilities = np.array([[1.0, 0.0], [1.0, 0.0]])
    evaluation = compute_evaluation(np.array([0, 1]), probabilities, ("a", "b"))
    assert evaluation.log_loss.value == pytest.approx(LARGEST_LOG_LOSS / 2)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([0.0, 0.0, 0.0], "of 1 of 6 images are no distribution: .* smallest value 0 and adds up to 0, not 1"),
        ([-0.1, 0.6, 0.5], "smallest value -0.1 and adds up to 1, not 1"),
        ([0.5, 0.5, 0.5], "smallest value 0.5 and adds up to 1.5, not 1"),
    ],
)
def test_rows_that_are_no_distribution_are_refused(row: list[float], message: str) -> None:
    broken = PROBABILITIES.copy()
    broken[3] = row
    with pytest.raises(WorkError, match=message):
        compute_evaluation(LABELS, broken, CLASSES)


def test_probabilities_that_are_not_numbers_are_refused() -> None:
    broken = PROBABILITIES.copy()
    broken[[1, 4], 0] = np.nan
    with pytest.raises(WorkError, match="not numbers for 2 of 6 images"):
        compute_evaluation(LABELS, broken, CLASSES)


@pytest.mark.parametrize(("n", "columns"), [(0, 3), (5, 3), (6, 2)])
def test_shapes_that_do_not_go_together_are_refused(n: int, columns: int) -> None:
    with pytest.raises(ValueError, match="do not go with probabilities"):
        compute_evaluation(LABELS[:n] if n == 0 else LABELS, np.full((n, columns), 1 / columns), CLASSES)


def rows_of(evaluation: Evaluation) -> dict[str, dict[str, str]]:
    text = estimates.classification_report_csv(evaluation)
    return {row["class"]: row for row in csv.DictReader(text.splitlines())}


@pytest.mark.parametrize("without", [None, 2, 1])
def test_classification_report_is_scikit_learns(without: int | None) -> None:
    """Also where a class has no image: then ``macro avg`` is over the listed classes, and not over those seen."""
    kept = without != LABELS
    labels, probabilities = LABELS[kept], PROBABILITIES[kept]
    rows = rows_of(compute_evaluation(labels, probabilities, CLASSES))
    assert list(rows) == [*CLASSES, "accuracy", "macro avg", "weighted avg"]
    assert list(rows["benign"]) == ["class", "precision", "recall", "f1", "support"]
    expected = classification_report(
        labels,
        probabilities.argmax(axis=1),
        labels=range(3),
        target_names=CLASSES,
        output_dict=True,
        zero_division=0,
    )
    assert float(rows["accuracy"]["f1"]) == pytest.approx((labels == probabilities.argmax(axis=1)).mean())
    for name in (*CLASSES, "macro avg", "weighted avg"):
        for column, sklearn_name in (("precision",) * 2, ("recall",) * 2, ("f1", "f1-score"), ("support",) * 2):
            assert float(rows[name][column]) == pytest.approx(expected[name][sklearn_name], abs=1e-12)


def test_the_report_of_two_seen_and_three_listed_classes() -> None:
    labels, predicted = np.array([0] * 5 + [1] * 6), np.array([0] * 3 + [1] * 2 + [1] * 5 + [0])
    evaluation = compute_evaluation(labels, np.eye(3)[predicted], CLASSES)
    assert evaluation.macro_f1.value == pytest.approx((2 / 3 + 10 / 13) / 2)
    assert float(rows_of(evaluation)["macro avg"]["f1"]) == pytest.approx((2 / 3 + 10 / 13) / 3)


def test_support_is_a_whole_number_where_no_answer_is_right() -> None:
    labels = np.array([0, 0, 1, 2])
    rows = rows_of(compute_evaluation(labels, np.eye(3)[[1, 1, 0, 0]], CLASSES))
    assert [rows[name]["support"] for name in CLASSES] == ["2", "1", "1"]


def test_summary_line() -> None:
    line = estimates.summary_line(compute_evaluation(LABELS, PROBABILITIES, CLASSES))
    assert line == (
        "accuracy 0.667 (0.204 to 0.940), macro-F1 0.656 (0.202 to 0.935), AUROC 0.896 (0.385 to 0.992), "
        "log loss 0.646 (0.069 to 1.222); 95 % intervals over 6 images in 6 groups"
    )
