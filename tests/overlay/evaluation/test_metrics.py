import csv
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from sklearn.metrics import (
    accuracy_score,
    classification_report,
    f1_score,
    roc_auc_score,
)
from sklearn.metrics import confusion_matrix as sklearn_confusion

from overlay.errors import WorkError
from overlay.evaluation import metrics

CLASSES = ("benign", "malignant", "normal")
# Six images; the fourth, benign, is called malignant with 0.7, and the last, normal, benign with 0.5.
LABELS = np.array([0, 1, 2, 0, 1, 2])
PROBABILITIES = np.array(
    [[0.8, 0.1, 0.1], [0.1, 0.6, 0.3], [0.2, 0.2, 0.6], [0.2, 0.7, 0.1], [0.0, 0.9, 0.1], [0.5, 0.1, 0.4]]
)
LAW = settings(deadline=None, max_examples=50)


@st.composite
def confusions(draw: st.DrawFn) -> NDArray[np.int64]:
    """Matrices of counts with at least one image, many of them with empty rows and columns."""
    n = draw(st.integers(2, 6))
    cells = hnp.arrays(np.int64, (n, n), elements=st.one_of(st.just(0), st.integers(0, 12)))
    return draw(cells.filter(lambda counts: bool(counts.sum() > 0)))


def as_pairs(confusion: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return true and predicted indices that count up to the matrix."""
    true, predicted = np.indices(confusion.shape)
    return np.repeat(true, confusion.ravel()), np.repeat(predicted, confusion.ravel())


@LAW
@given(confusions())
def test_counts_give_what_scikit_learn_gives_for_the_images(confusion: NDArray[np.int64]) -> None:
    true, predicted = as_pairs(confusion)
    assert metrics.accuracy(confusion) == pytest.approx(accuracy_score(true, predicted), abs=1e-12)
    f1 = f1_score(true, predicted, average="macro", zero_division=0)
    assert metrics.macro_f1(confusion) == pytest.approx(f1, abs=1e-12)


@LAW
@given(confusions())
def test_images_are_counted_as_scikit_learn_counts_them(confusion: NDArray[np.int64]) -> None:
    true, predicted = as_pairs(confusion)
    counted = metrics.confusion_matrix(true, predicted, len(confusion))
    assert counted.dtype == np.int64
    np.testing.assert_array_equal(counted, confusion)
    np.testing.assert_array_equal(counted, sklearn_confusion(true, predicted, labels=range(len(confusion))))


@LAW
@given(confusions())
def test_training_and_evaluation_give_the_same_numbers(confusion: NDArray[np.int64]) -> None:
    true, predicted = as_pairs(confusion)
    evaluation = metrics.compute_evaluation(
        true, np.eye(len(confusion))[predicted], [f"class {i}" for i in range(len(confusion))]
    )
    assert evaluation.accuracy == pytest.approx(metrics.accuracy(confusion), abs=1e-12)
    assert evaluation.macro.f1 == pytest.approx(metrics.macro_f1(confusion), abs=1e-12)
    assert evaluation.weighted.recall == pytest.approx(evaluation.accuracy, abs=1e-12)
    assert evaluation.confusion == tuple(map(tuple, confusion.tolist()))
    low, high = evaluation.accuracy_interval
    assert 0 <= low <= evaluation.accuracy + 1e-12
    assert evaluation.accuracy - 1e-12 <= high <= 1
    json.dumps(evaluation.to_json(), allow_nan=False)


@LAW
@given(confusions(), st.integers(1, 4))
def test_workers_may_share_the_images_in_any_way(confusion: NDArray[np.int64], workers: int) -> None:
    true, predicted = as_pairs(confusion)
    parts = [
        metrics.confusion_matrix(true[rank::workers], predicted[rank::workers], len(confusion))
        for rank in range(workers)
    ]
    np.testing.assert_array_equal(sum(parts), confusion)


def test_macro_f1_leaves_out_a_class_that_is_neither_seen_nor_predicted() -> None:
    assert metrics.macro_f1(np.array([[3, 1, 0], [0, 4, 0], [0, 0, 0]])) == pytest.approx(
        (6 / 7 + 8 / 9) / 2, abs=1e-15
    )


def test_macro_f1_counts_a_class_that_is_only_predicted_as_nothing() -> None:
    assert metrics.macro_f1(np.array([[3, 0, 1], [0, 4, 0], [0, 0, 0]])) == pytest.approx(
        (6 / 7 + 1 + 0) / 3, abs=1e-15
    )


def test_nothing_counted_has_no_accuracy() -> None:
    nothing = np.zeros((3, 3), dtype=np.int64)
    with pytest.raises(ZeroDivisionError):
        metrics.accuracy(nothing)
    with pytest.raises(ZeroDivisionError):
        metrics.macro_f1(nothing)


def test_every_number_of_six_images() -> None:
    evaluation = metrics.compute_evaluation(LABELS, PROBABILITIES, CLASSES)
    assert evaluation.images == 6
    assert evaluation.accuracy == 4 / 6
    assert evaluation.confusion == ((1, 1, 0), (0, 2, 0), (1, 0, 1))
    assert evaluation.balanced_accuracy == pytest.approx((1 / 2 + 1 + 1 / 2) / 3)
    benign, malignant, normal = evaluation.per_class
    assert (benign.name, benign.precision, benign.recall, benign.f1, benign.support) == ("benign", 0.5, 0.5, 0.5, 2)
    assert (malignant.precision, malignant.recall, malignant.f1) == pytest.approx((2 / 3, 1, 4 / 5))
    assert (normal.precision, normal.recall, normal.f1) == pytest.approx((1, 1 / 2, 2 / 3))
    assert evaluation.macro.f1 == pytest.approx((1 / 2 + 4 / 5 + 2 / 3) / 3)
    # Of benign's 2 x 4 pairs: 0.8 is above all four; 0.2 is above 0.1 and 0.0, ties with 0.2 and is below 0.5.
    assert benign.auroc == pytest.approx((4 + 2.5) / 8)
    # Of malignant's: 0.6 is above 0.1, 0.2 and 0.1, but below 0.7; 0.9 is above all.
    assert malignant.auroc == pytest.approx(7 / 8)
    assert normal.auroc == 1.0
    assert evaluation.auroc == pytest.approx((6.5 / 8 + 7 / 8 + 1) / 3)
    assert evaluation.log_loss == pytest.approx(-np.log([0.8, 0.6, 0.6, 0.2, 0.9, 0.4]).mean())


def test_macro_auroc_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    labels, probabilities = rng.integers(0, 3, 90), rng.dirichlet(np.ones(3), 90)
    expected = roc_auc_score(labels, probabilities, multi_class="ovr", average="macro")
    assert metrics.compute_evaluation(labels, probabilities, CLASSES).auroc == pytest.approx(expected, abs=1e-12)


def test_interval_of_the_accuracy_against_wilsons_formula() -> None:
    right, n, z = 103, 117, 1.959963984540054
    predicted = np.r_[np.zeros(right, dtype=int), np.ones(n - right, dtype=int)]
    evaluation = metrics.compute_evaluation(np.zeros(n, dtype=np.int64), np.eye(2)[predicted], ["a", "b"])
    p = right / n
    centre, half = p + z**2 / (2 * n), z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    expected = ((centre - half) / (1 + z**2 / n), (centre + half) / (1 + z**2 / n))
    assert evaluation.accuracy_interval == pytest.approx(expected, abs=1e-12)


def test_an_absent_class_has_no_auroc_and_makes_the_mean_undefined() -> None:
    seen = LABELS < 2
    evaluation = metrics.compute_evaluation(LABELS[seen], PROBABILITIES[seen], CLASSES)
    assert [scores.auroc is None for scores in evaluation.per_class] == [False, False, True]
    assert evaluation.auroc is None
    assert evaluation.per_class[2].support == 0
    assert evaluation.balanced_accuracy == pytest.approx((1 / 2 + 1) / 2)
    assert json.loads(json.dumps(evaluation.to_json(), allow_nan=False))["auroc"] is None


def test_metrics_json_holds_plain_values_only() -> None:
    content = json.loads(
        json.dumps(metrics.compute_evaluation(LABELS, PROBABILITIES, CLASSES).to_json(), allow_nan=False)
    )
    assert content["classes"] == list(CLASSES)
    assert content["images"] == 6
    assert content["confusion"] == [[1, 1, 0], [0, 2, 0], [1, 0, 1]]
    assert content["per_class"][1] == {
        "name": "malignant",
        "precision": pytest.approx(2 / 3),
        "recall": 1.0,
        "f1": pytest.approx(0.8),
        "support": 2,
        "auroc": 0.875,
    }


def test_the_rounding_of_a_float32_softmax_is_no_warning() -> None:
    logits = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    softmax = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = np.arange(50) % 3
    evaluation = metrics.compute_evaluation(labels, softmax.astype(np.float64), CLASSES)
    assert evaluation.log_loss == pytest.approx(-np.log(softmax[np.arange(50), labels]).mean(), abs=1e-6)


def test_probabilities_that_are_not_numbers_are_refused() -> None:
    broken = PROBABILITIES.copy()
    broken[[1, 4], 0] = np.nan
    with pytest.raises(WorkError, match="not numbers for 2 of 6 images"):
        metrics.compute_evaluation(LABELS, broken, CLASSES)


@pytest.mark.parametrize(("n", "columns"), [(0, 3), (5, 3), (6, 2)])
def test_shapes_that_do_not_go_together_are_refused(n: int, columns: int) -> None:
    with pytest.raises(ValueError, match="do not go with probabilities"):
        metrics.compute_evaluation(LABELS[:n] if n == 0 else LABELS, np.full((n, columns), 1 / columns), CLASSES)


def test_classification_report_is_scikit_learns() -> None:
    text = metrics.classification_report_csv(metrics.compute_evaluation(LABELS, PROBABILITIES, CLASSES))
    rows = {row["class"]: row for row in csv.DictReader(text.splitlines())}
    assert list(rows) == [*CLASSES, "accuracy", "macro avg", "weighted avg"]
    assert list(rows["benign"]) == ["class", "precision", "recall", "f1", "support"]
    expected = classification_report(
        LABELS, PROBABILITIES.argmax(axis=1), target_names=CLASSES, output_dict=True, zero_division=0
    )
    assert rows["accuracy"] == {"class": "accuracy", "precision": "", "recall": "", "f1": str(4 / 6), "support": "6"}
    for name in (*CLASSES, "macro avg", "weighted avg"):
        for column, sklearn_name in (("precision",) * 2, ("recall",) * 2, ("f1", "f1-score"), ("support",) * 2):
            assert float(rows[name][column]) == pytest.approx(expected[name][sklearn_name], abs=1e-12)


def test_summary_line() -> None:
    line = metrics.summary_line(metrics.compute_evaluation(LABELS, PROBABILITIES, CLASSES))
    assert line == "accuracy 0.667 (95 % interval 0.300 to 0.903), macro-F1 0.656 on 6 images"


def test_worst_mistakes_come_in_order_of_confidence() -> None:
    assert metrics.worst_mistakes(LABELS, PROBABILITIES).tolist() == [3, 5]
    assert metrics.worst_mistakes(LABELS, PROBABILITIES, limit=1).tolist() == [3]
    assert metrics.worst_mistakes(PROBABILITIES.argmax(axis=1), PROBABILITIES).tolist() == []


def test_masks_that_tell_the_classes_apart_are_found_out_and_missing_masks_are_a_class_of_their_own() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(90) % 3
    numbers = rng.normal(size=(90, 4)) * 0.1 + 1.0 + labels[:, None]
    numbers[labels == 2] = np.nan
    scores = metrics.mask_only_scores(numbers[:60], labels[:60], numbers[60:], labels[60:])
    assert scores == (1.0, 1.0)


def test_mask_only_scores_repeat() -> None:
    rng = np.random.default_rng(1)
    numbers, labels = rng.normal(size=(80, 4)), rng.integers(0, 3, 80)
    first = metrics.mask_only_scores(numbers[:50], labels[:50], numbers[50:], labels[50:])
    assert first == metrics.mask_only_scores(numbers[:50], labels[:50], numbers[50:], labels[50:])
    assert first[0] < 0.7
