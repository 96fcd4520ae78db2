from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    f1_score,
    log_loss,
    precision_score,
    recall_score,
    roc_auc_score,
)

from overlay.evaluation import influence
from overlay.evaluation.influence import Influence

LAW = settings(deadline=None, max_examples=25)
CLASSES = 3
LABELS = np.array([0, 1, 2, 0, 1, 2])
PREDICTED = np.array([0, 1, 2, 1, 1, 0])
POSITIVE = np.array([True] * 4 + [False] * 5)
SCORES_A = np.array([0.9, 0.8, 0.7, 0.4, 0.6, 0.4, 0.3, 0.2, 0.1])
SCORES_B = np.array([0.8, 0.9, 0.5, 0.3, 0.7, 0.5, 0.4, 0.2, 0.1])

Weights = NDArray[np.float64]


@st.composite
def scored_images(draw: st.DrawFn) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Labels with every class in them, and probabilities with many ties, none of them 0."""
    n = draw(st.integers(CLASSES, 12))
    rest = draw(hnp.arrays(np.int64, n - CLASSES, elements=st.integers(0, CLASSES - 1)))
    raw = draw(hnp.arrays(np.int64, (n, CLASSES), elements=st.integers(1, 4))).astype(np.float64)
    return np.concatenate([np.arange(CLASSES), rest]), raw / raw.sum(axis=1, keepdims=True)


def derivative(metric: Callable[[Weights], float], n: int) -> NDArray[np.float64]:
    """Derivative of a metric of weighted images in each image's weight, times 1 / n, extrapolated to no step."""

    def central(image: int, step: float) -> float:
        def at(amount: float) -> float:
            weights = np.full(n, (1 - amount) / n)
            weights[image] += amount
            return metric(weights)

        return (at(step) - at(-step)) / (2 * step)

    return np.array([(4 * central(i, 1e-3) - central(i, 2e-3)) / 3 for i in range(n)]) / n


def check(found: Influence, metric: Callable[[Weights], float]) -> None:
    n = len(found.phi)
    assert found.value == pytest.approx(metric(np.full(n, 1 / n)), abs=1e-12)
    np.testing.assert_allclose(found.phi, derivative(metric, n), atol=1e-8)
    assert found.phi.sum() == pytest.approx(0, abs=1e-12)
    assert (found.phi[~found.counted] == 0).all()
    assert found.limits[0] <= found.value <= found.limits[1]
    assert 0 < found.size <= n


def weighted_counts(y: NDArray[np.int64], p: NDArray[np.int64], w: Weights) -> NDArray[np.float64]:
    counts = np.zeros((CLASSES, CLASSES))
    np.add.at(counts, (y, p), w)
    return counts


def ratio(top: NDArray[np.float64], bottom: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(bottom > 0, top / np.where(bottom > 0, bottom, 1), 0)


def recalls(m: NDArray[np.float64]) -> NDArray[np.float64]:
    return ratio(np.diagonal(m), m.sum(axis=1))


def precisions(m: NDArray[np.float64]) -> NDArray[np.float64]:
    return ratio(np.diagonal(m), m.sum(axis=0))


def f1s(m: NDArray[np.float64]) -> NDArray[np.float64]:
    return ratio(2 * np.diagonal(m), m.sum(axis=0) + m.sum(axis=1))


def of_one_class(
    scores: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    y: NDArray[np.int64],
    p: NDArray[np.int64],
    index: int,
) -> Callable[[Weights], float]:
    return lambda w: float(scores(weighted_counts(y, p, w))[index])


def area(positive: NDArray[np.bool_], scores: NDArray[np.float64], w: Weights) -> float:
    """Weighted share of the pairs in which the positive image has the higher score; a tie is one half."""
    gap = scores[positive][:, None] - scores[~positive]
    pairs = w[positive][:, None] * w[~positive]
    return float((pairs * ((gap > 0) + (gap == 0) / 2)).sum() / pairs.sum())


@LAW
@given(scored_images())
def test_values_are_those_of_scikit_learn(images: tuple[NDArray[np.int64], NDArray[np.float64]]) -> None:
    y, probabilities = images
    p = probabilities.argmax(axis=1)
    assert influence.accuracy_influence(y, p).value == pytest.approx(accuracy_score(y, p), abs=1e-12)
    assert influence.balanced_accuracy_influence(y, p).value == pytest.approx(balanced_accuracy_score(y, p), abs=1e-12)
    for macro, score in (
        (influence.macro_recall_influence, recall_score),
        (influence.macro_precision_influence, precision_score),
        (influence.macro_f1_influence, f1_score),
    ):
        assert macro(y, p).value == pytest.approx(score(y, p, average="macro", zero_division=0), abs=1e-12)
    area_of_all = influence.one_vs_rest_auroc_influence(y, probabilities)
    assert area_of_all is not None
    areas = [roc_auc_score(y == index, probabilities[:, index]) for index in range(CLASSES)]
    assert area_of_all.value == pytest.approx(np.mean(areas), abs=1e-12)
    loss = influence.log_loss_influence(y, probabilities).value
    assert loss == pytest.approx(log_loss(y, probabilities, labels=range(CLASSES)), abs=1e-12)


@LAW
@given(scored_images())
def test_influences_of_counts_are_derivatives(images: tuple[NDArray[np.int64], NDArray[np.float64]]) -> None:
    y, probabilities = images
    p = probabilities.argmax(axis=1)
    check(influence.accuracy_influence(y, p), lambda w: float(np.trace(weighted_counts(y, p, w))))
    check(influence.balanced_accuracy_influence(y, p), lambda w: float(recalls(weighted_counts(y, p, w)).mean()))
    check(influence.macro_recall_influence(y, p), lambda w: float(recalls(weighted_counts(y, p, w)).mean()))
    check(influence.macro_precision_influence(y, p), lambda w: float(precisions(weighted_counts(y, p, w)).mean()))
    check(influence.macro_f1_influence(y, p), lambda w: float(f1s(weighted_counts(y, p, w)).mean()))
    for index in range(CLASSES):
        for of_class, scores in (
            (influence.recall_influence, recalls),
            (influence.precision_influence, precisions),
            (influence.f1_influence, f1s),
        ):
            found = of_class(y, p, index)
            assert (found is None) == (scores is precisions and index not in p)
            if found is not None:
                check(found, of_one_class(scores, y, p, index))


@LAW
@given(scored_images())
def test_influences_of_scores_are_derivatives(images: tuple[NDArray[np.int64], NDArray[np.float64]]) -> None:
    y, probabilities = images
    binary = influence.auroc_influence(y == 0, probabilities[:, 0])
    assert binary is not None
    check(binary, lambda w: area(y == 0, probabilities[:, 0], w))
    macro = influence.one_vs_rest_auroc_influence(y, probabilities)
    assert macro is not None
    check(macro, lambda w: float(np.mean([area(y == i, probabilities[:, i], w) for i in range(CLASSES)])))
    losses = -np.log(probabilities[np.arange(len(y)), y])
    check(influence.log_loss_influence(y, probabilities), lambda w: float((losses * w).sum()))
    errors = ((probabilities - np.eye(CLASSES)[y]) ** 2).sum(axis=1)
    check(influence.brier_influence(y, probabilities), lambda w: float((errors * w).sum()))


@LAW
@given(scored_images())
def test_sensitivity_and_specificity_are_the_recalls_of_the_two_sides(
    images: tuple[NDArray[np.int64], NDArray[np.float64]],
) -> None:
    y, probabilities = images
    positive, flagged = y == 1, probabilities[:, 1] >= 0.4
    sensitivity = influence.sensitivity_influence(positive, flagged)
    specificity = influence.specificity_influence(positive, flagged)
    assert sensitivity is not None
    assert specificity is not None
    check(sensitivity, lambda w: float(w[positive & flagged].sum() / w[positive].sum()))
    check(specificity, lambda w: float(w[~positive & ~flagged].sum() / w[~positive].sum()))
    np.testing.assert_array_equal(sensitivity.counted, positive)
    np.testing.assert_array_equal(specificity.counted, ~positive)
    assert (sensitivity.size, specificity.size) == (positive.sum(), (~positive).sum())


def test_influences_of_macro_f1_of_the_six_images() -> None:
    found = influence.macro_f1_influence(LABELS, PREDICTED)
    assert found.value == pytest.approx(59 / 90, abs=1e-15)
    np.testing.assert_allclose(6 * found.phi, [0.5, 0.16, 4 / 9, -0.57, 0.16, -25 / 36], atol=1e-14)

    def macro_f1(w: Weights) -> float:
        return float(f1_score(LABELS, PREDICTED, average="macro", sample_weight=w))

    np.testing.assert_allclose(found.phi, derivative(macro_f1, 6), atol=1e-10)


def test_areas_and_covariances_of_delong() -> None:
    a, b = (influence.auroc_influence(POSITIVE, scores) for scores in (SCORES_A, SCORES_B))
    assert a is not None
    assert b is not None
    assert (a.value, b.value) == (37 / 40, 31 / 40)

    def covariance(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
        return float((x * y)[POSITIVE].sum() * 4 / 3 + (x * y)[~POSITIVE].sum() * 5 / 4)

    assert covariance(a.phi, a.phi) == pytest.approx(13 / 1600, abs=1e-15)
    assert covariance(a.phi, b.phi) == pytest.approx(11 / 800, abs=1e-15)
    assert covariance(b.phi, b.phi) == pytest.approx(49 / 1600, abs=1e-15)
    assert covariance(a.phi - b.phi, a.phi - b.phi) == pytest.approx(9 / 800, abs=1e-15)


def test_auroc_is_averaged_over_folds_and_not_taken_of_pooled_scores() -> None:
    positive, scores, folds = np.array([True, False] * 2), np.array([0.9, 0.8, 0.3, 0.2]), np.array([0, 0, 1, 1])
    pooled = influence.auroc_influence(positive, scores)
    averaged = influence.fold_mean_influence(
        folds, lambda rows: influence.auroc_influence(positive[rows], scores[rows])
    )
    assert pooled is not None
    assert averaged is not None
    assert (pooled.value, averaged.value) == (0.75, 1.0)
    np.testing.assert_array_equal(averaged.phi, np.zeros(4))
    assert averaged.size == 2


def test_influences_of_a_mean_over_folds_are_those_of_the_folds_divided_by_their_number() -> None:
    positive, scores = np.concatenate([POSITIVE, POSITIVE]), np.concatenate([SCORES_A, SCORES_B])
    folds, order = np.repeat([4, 7], 9), np.random.default_rng(0).permutation(18)
    averaged = influence.fold_mean_influence(
        folds[order], lambda rows: influence.auroc_influence(positive[order][rows], scores[order][rows])
    )
    a, b = (influence.auroc_influence(POSITIVE, part) for part in (SCORES_A, SCORES_B))
    assert a is not None
    assert b is not None
    assert averaged is not None
    assert averaged.value == pytest.approx((a.value + b.value) / 2, abs=1e-15)
    np.testing.assert_allclose(averaged.phi, np.concatenate([a.phi, b.phi])[order] / 2, atol=1e-15)
    assert averaged.size == 8


def test_a_fold_without_positive_images_has_no_auroc_and_nor_has_the_mean() -> None:
    positive, folds = np.array([True, False, False, False]), np.array([0, 0, 1, 1])
    scores = np.arange(4.0)
    assert (
        influence.fold_mean_influence(folds, lambda rows: influence.auroc_influence(positive[rows], scores[rows]))
        is None
    )


@pytest.mark.parametrize(
    "nothing_to_count",
    [
        influence.recall_influence(np.array([0, 0]), np.array([0, 1]), 1),
        influence.precision_influence(np.array([0, 1]), np.array([0, 0]), 1),
        influence.f1_influence(np.array([0, 1]), np.array([0, 1]), 2),
        influence.sensitivity_influence(np.array([False]), np.array([True])),
        influence.specificity_influence(np.array([True]), np.array([True])),
        influence.auroc_influence(np.array([True, True]), np.array([0.1, 0.2])),
        influence.one_vs_rest_auroc_influence(np.array([0, 1]), np.full((2, 3), 1 / 3)),
    ],
)
def test_a_metric_that_counts_no_image_is_none(nothing_to_count: Influence | None) -> None:
    assert nothing_to_count is None


def test_a_class_that_is_only_predicted_lowers_the_macro_averages_and_not_the_balanced_accuracy() -> None:
    labels, predicted = np.array([0, 0, 1, 1]), np.array([0, 0, 1, 2])
    assert influence.balanced_accuracy_influence(labels, predicted).value == 0.75
    assert influence.macro_recall_influence(labels, predicted).value == 0.5
    assert influence.macro_precision_influence(labels, predicted).value == pytest.approx(2 / 3, abs=1e-15)
    only_predicted = influence.f1_influence(labels, predicted, 2)
    assert only_predicted is not None
    assert (only_predicted.value, only_predicted.size) == (0, 1)


def test_images_behind_a_mean_of_shares_are_the_harmonic_ones() -> None:
    labels = np.array([0, 0, 0, 0, 1])
    assert influence.balanced_accuracy_influence(labels, labels).size == pytest.approx(4 / (1 / 4 + 1), abs=1e-15)
    assert influence.macro_f1_influence(labels, labels).size == pytest.approx(3.2, abs=1e-15)


def test_a_probability_of_zero_costs_the_largest_loss() -> None:
    found = influence.log_loss_influence(np.array([0, 1]), np.array([[1.0, 0.0], [1.0, 0.0]]))
    assert found.value == pytest.approx(influence.LARGEST_LOG_LOSS / 2)
    assert pytest.approx(87.3365, abs=1e-4) == influence.LARGEST_LOG_LOSS
    assert influence.brier_influence(np.array([0, 1]), np.array([[1.0, 0.0], [1.0, 0.0]])).value == 1.0
