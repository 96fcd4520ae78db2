import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, f1_score
from sklearn.metrics import confusion_matrix as sklearn_confusion

from overlay.evaluation import metrics

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


def test_worst_mistakes_come_in_order_of_confidence() -> None:
    assert metrics.worst_mistakes(LABELS, PROBABILITIES).tolist() == [3, 5]
    assert metrics.worst_mistakes(LABELS, PROBABILITIES, limit=1).tolist() == [3]
    assert metrics.worst_mistakes(PROBABILITIES.argmax(axis=1), PROBABILITIES).tolist() == []


def test_masks_that_tell_the_classes_apart_are_found_out_and_missing_masks_are_a_class_of_their_own() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(90) % 3
    numbers = rng.normal(size=(90, 4)) * 0.1 + 1.0 + labels[:, None]
    numbers[labels == 2] = np.nan
    np.testing.assert_array_equal(metrics.mask_only_answers(numbers[:60], labels[:60], numbers[60:]), labels[60:])


def test_mask_only_answers_repeat() -> None:
    rng = np.random.default_rng(1)
    numbers, labels = rng.normal(size=(80, 4)), rng.integers(0, 3, 80)
    first = metrics.mask_only_answers(numbers[:50], labels[:50], numbers[50:])
    np.testing.assert_array_equal(first, metrics.mask_only_answers(numbers[:50], labels[:50], numbers[50:]))
    assert (first == labels[50:]).mean() < 0.7
