import math
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy.stats import binomtest, norm
from scipy.stats import t as student

from overlay.evaluation import influence
from overlay.evaluation.influence import Influence
from overlay.evaluation.intervals import (
    Estimate,
    estimate_metric,
    mover_interval,
    paired_difference,
    t_quantile,
    wilson_interval,
)

LAW = settings(deadline=None, max_examples=60)
Z = float(norm.ppf(0.975))
CLASSES = 3


def accuracy_of(right: NDArray[np.bool_]) -> Influence:
    """Accuracy of two classes, the wrong answers in either."""
    return influence.accuracy_influence(np.zeros(len(right), dtype=np.int64), (~right).astype(np.int64))


@st.composite
def grouped_images(
    draw: st.DrawFn,
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Labels, two models' probabilities, groups."""
    n = draw(st.integers(1, 14))
    labels = draw(hnp.arrays(np.int64, n, elements=st.integers(0, CLASSES - 1)))
    groups = draw(hnp.arrays(np.int64, n, elements=st.integers(0, 6)))
    raw = draw(hnp.arrays(np.int64, (2, n, CLASSES), elements=st.integers(1, 5))).astype(np.float64)
    a, b = raw / raw.sum(axis=2, keepdims=True)
    return labels, a, b, groups


def every_metric(labels: NDArray[np.int64], probabilities: NDArray[np.float64]) -> list[Influence | None]:
    predicted = probabilities.argmax(axis=1)
    return [
        influence.accuracy_influence(labels, predicted),
        influence.balanced_accuracy_influence(labels, predicted),
        influence.macro_recall_influence(labels, predicted),
        influence.macro_precision_influence(labels, predicted),
        influence.macro_f1_influence(labels, predicted),
        influence.recall_influence(labels, predicted, 0),
        influence.precision_influence(labels, predicted, 0),
        influence.f1_influence(labels, predicted, 0),
        influence.auroc_influence(labels == 0, probabilities[:, 0]),
        influence.one_vs_rest_auroc_influence(labels, probabilities),
        influence.log_loss_influence(labels, probabilities),
        influence.brier_influence(labels, probabilities),
    ]


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [(81, 263, 0.255289, 0.366210), (0, 10, 0, 0.277533), (103, 117, 0.809134, 0.927369)],
)
def test_wilsons_interval(right: int, n: int, low: float, high: float) -> None:
    found = wilson_interval(right / n, n, Z)
    assert found == pytest.approx((low, high), abs=5e-7)
    theirs = binomtest(right, n).proportion_ci(method="wilson")
    assert found == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_accuracy_over_groups() -> None:
    found = estimate_metric(
        accuracy_of(np.array([1, 1, 1, 0, 0, 1, 1, 1], dtype=bool)), np.array([0, 0, 1, 2, 2, 3, 4, 5])
    )
    assert found.value == 0.75
    assert found.n_effective == pytest.approx(40 / 11, abs=1e-12)
    assert math.sqrt(0.75 * 0.25 / found.n_effective) == pytest.approx(0.2270737766, abs=5e-11)
    assert (found.low, found.high) == pytest.approx((0.2054033868, 0.9720796891), abs=5e-11)
    assert (found.images, found.groups) == (8, 6)


def test_accuracy_of_one_has_the_design_effect_of_the_groups_sizes() -> None:
    found = estimate_metric(accuracy_of(np.ones(10, dtype=bool)), np.array([0, 0, 1, 1, 2, 3, 4, 5, 6, 7]))
    assert found.n_effective == pytest.approx(50 / 7, abs=1e-12)
    assert (found.low, found.high) == pytest.approx((0.5609145647, 1), abs=5e-11)


def test_accuracy_of_single_images() -> None:
    found = estimate_metric(accuracy_of(np.arange(36) > 0), np.arange(36))
    assert found.n_effective == pytest.approx(35, abs=1e-10)
    assert (found.low, found.high) == pytest.approx((0.8495374851, 0.9954120252), abs=5e-11)


def test_macro_f1_of_the_six_images() -> None:
    macro_f1 = influence.macro_f1_influence(np.array([0, 1, 2, 0, 1, 2]), np.array([0, 1, 2, 1, 1, 0]))
    found = estimate_metric(macro_f1, np.arange(6))
    assert math.sqrt(found.value * (1 - found.value) / found.n_effective) == pytest.approx(0.2086371612, abs=5e-11)
    assert (found.low, found.high) == pytest.approx((0.2022242062, 0.9345972305), abs=5e-11)


def test_mover_of_newcombes_table_with_z() -> None:
    # 10 images that both answer right, 15 only the candidate, 5 only the reference, 20 neither.
    candidate, reference = np.repeat([1, 1, 0, 0], [10, 15, 5, 20]), np.repeat([1, 0, 1, 0], [10, 15, 5, 20])
    correlation = paired_difference(
        accuracy_of(candidate.astype(bool)), accuracy_of(reference.astype(bool)), np.arange(50)
    ).correlation
    assert correlation == pytest.approx(0.2182178902, abs=5e-11)
    ours, theirs = (Estimate(share, *wilson_interval(share, 50, Z), 50, 50, 50) for share in (0.5, 0.3))
    found = mover_interval(ours, theirs, correlation)
    assert found.value == pytest.approx(0.2, abs=1e-15)
    assert (found.low, found.high) == pytest.approx((0.0305028229, 0.3528359277), abs=5e-11)


def test_mean_losses_have_a_t_interval_and_their_difference_the_paired_one() -> None:
    labels, n = np.array([0, 1, 0, 1, 0, 1]), 6
    a = np.array([0.9, 0.4, 0.7, 0.2, 0.6, 0.3])
    b = np.array([0.8, 0.5, 0.6, 0.4, 0.4, 0.3])
    losses = [-np.log(np.where(labels == 0, p, 1 - p)) for p in (a, b)]
    influences = [influence.log_loss_influence(labels, np.stack([p, 1 - p], axis=1)) for p in (a, b)]
    quantile = float(student.ppf(0.975, n - 1))
    for found, loss in zip((estimate_metric(i, np.arange(n)) for i in influences), losses, strict=True):
        half = quantile * loss.std(ddof=1) / math.sqrt(n)
        assert (found.low, found.high) == pytest.approx((loss.mean() - half, loss.mean() + half), abs=1e-12)
        assert found.n_effective == pytest.approx(n - 1, abs=1e-10)
    gap = losses[0] - losses[1]
    half = quantile * gap.std(ddof=1) / math.sqrt(n)
    paired = paired_difference(influences[0], influences[1], np.arange(n))
    assert (paired.low, paired.high) == pytest.approx((gap.mean() - half, gap.mean() + half), abs=1e-12)


def test_one_group_says_nothing_about_the_spread() -> None:
    groups = np.zeros(3, dtype=np.int64)
    found = estimate_metric(accuracy_of(np.array([True, True, False])), groups)
    assert (found.low, found.high, found.n_effective, found.groups) == (0, 1, 1, 1)
    loss = influence.log_loss_influence(np.array([0, 0, 0]), np.array([[0.9, 0.1], [0.5, 0.5], [0.2, 0.8]]))
    assert estimate_metric(loss, groups).high == influence.LARGEST_LOG_LOSS
    assert t_quantile(1) == math.inf
    assert t_quantile(6) == pytest.approx(student.ppf(0.975, 5), abs=1e-12)


def test_a_recall_counts_the_groups_of_its_class_alone() -> None:
    labels, predicted = np.array([0, 0, 0, 1, 1, 1]), np.array([0, 0, 1, 1, 1, 0])
    recall = influence.recall_influence(labels, predicted, 1)
    assert recall is not None
    found = estimate_metric(recall, np.array([0, 1, 2, 3, 4, 5]))
    alone = estimate_metric(accuracy_of(np.array([True, True, False])), np.arange(3))
    assert (found.images, found.groups) == (3, 3)
    assert (found.low, found.high, found.n_effective) == (alone.low, alone.high, alone.n_effective)


def test_copies_of_all_images_in_their_groups_add_no_certainty() -> None:
    right, groups = np.array([1, 1, 1, 0, 0, 1, 1, 1], dtype=bool), np.arange(8)
    once = estimate_metric(accuracy_of(right), groups)
    twice = estimate_metric(accuracy_of(np.tile(right, 2)), np.tile(groups, 2))
    assert twice.n_effective == pytest.approx(once.n_effective, abs=1e-12)
    assert (twice.low, twice.high) == pytest.approx((once.low, once.high), abs=1e-12)


@LAW
@given(grouped_images(), st.randoms(use_true_random=False))
def test_an_interval_holds_its_value_and_does_not_depend_on_the_order(
    images: tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]],
    random: Random,
) -> None:
    labels, a, b, groups = images
    order = list(range(len(labels)))
    random.shuffle(order)
    renamed = np.array([3, 0, 5, 1, 6, 2, 4])[groups]
    metrics = zip(every_metric(labels, a), every_metric(labels, b), every_metric(labels[order], a[order]), strict=True)
    for metric, other, shuffled in metrics:
        assert (metric is None) == (shuffled is None)
        if metric is None or shuffled is None:
            continue
        found, again = estimate_metric(metric, groups), estimate_metric(shuffled, renamed[order])
        assert metric.limits[0] <= found.low <= found.value <= found.high <= metric.limits[1]
        assert 0 < found.n_effective <= found.images <= len(labels)
        assert (again.value, again.low, again.high, again.n_effective) == pytest.approx(
            (found.value, found.low, found.high, found.n_effective), abs=1e-9
        )
        if other is not None:
            gap, mirrored = paired_difference(metric, other, groups), paired_difference(other, metric, groups)
            assert -metric.limits[1] <= gap.low <= gap.value <= gap.high <= metric.limits[1]
            assert (gap.low, gap.high) == pytest.approx((-mirrored.high, -mirrored.low), abs=1e-9)
            assert -1 <= gap.correlation <= 1


def bootstrap_interval(
    random: np.random.Generator, right: NDArray[np.float64], sizes: NDArray[np.int64]
) -> tuple[float, float]:
    """Percentile interval over 1,000 resamples of the groups, each drawn as counts of groups that are the same."""
    kinds, counts = np.unique(np.stack([right, sizes]), axis=1, return_counts=True)
    drawn = random.multinomial(len(sizes), counts / len(sizes), 1000)
    low, high = np.quantile((drawn @ kinds[0]) / (drawn @ kinds[1]), [0.025, 0.975])
    return float(low), float(high)


@pytest.mark.slow
@pytest.mark.parametrize("accuracy", [0.8, 0.95, 0.98])
@pytest.mark.parametrize("count", [30, 90, 600])
def test_coverage_with_near_duplicates(count: int, accuracy: float) -> None:
    """Share of test sets whose interval holds the true accuracy, in percent: closed form (percentile bootstrap).

    Groups of one to three images, of which four in five are answered alike; 20,000 test sets, 1,000 for the bootstrap.

        groups   accuracy 0.80   0.95         0.98
        30       94.6 (92.1)     96.8 (80.6)  95.6 (51.1)
        90       95.2 (95.4)     92.1 (90.0)  96.5 (76.7)
        600      95.1 (94.0)     94.8 (94.0)  94.5 (93.1)
    """
    random = np.random.default_rng(0)
    repetitions, bootstrapped = 20_000, 1_000
    held = held_by_bootstrap = 0
    for repetition in range(repetitions):
        sizes = random.integers(1, 4, count)
        groups = np.repeat(np.arange(count), sizes)
        alike = random.random(count) < 0.8
        together, alone = random.random(count) < accuracy, random.random(len(groups)) < accuracy
        right = np.where(alike[groups], together[groups], alone)
        found = estimate_metric(accuracy_of(right), groups)
        held += found.low <= accuracy <= found.high
        if repetition < bootstrapped:
            low, high = bootstrap_interval(random, np.bincount(groups, right).astype(np.float64), sizes)
            held_by_bootstrap += low <= accuracy <= high
    print(f"{count} groups, accuracy {accuracy}: {held / repetitions:.3f}, {held_by_bootstrap / bootstrapped:.3f}")
    assert 0.92 <= held / repetitions <= 0.985
