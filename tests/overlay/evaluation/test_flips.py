import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from sklearn.metrics import f1_score, roc_auc_score

from overlay.evaluation.flips import auroc_flips, balanced_accuracy_flips, macro_f1_flips, mean_flips, sum_flips
from overlay.evaluation.paired_tests import flips_test

LAW = settings(deadline=None, max_examples=15)
CLASSES, N = 3, 12
GROUPS = np.array([0, 0, 1, 2, 2, 2, 3, 4, 5, 5, 6, 7])
# No swap, all swapped, and some.
SWAPS = np.array([[0] * 8, [1] * 8, [1, 0, 1, 1, 0, 0, 1, 0], [0, 0, 1, 0, 0, 1, 1, 1]], dtype=bool)

answers = hnp.arrays(np.int64, (3, N), elements=st.integers(0, CLASSES - 1))
ties = hnp.arrays(np.float64, (2, N), elements=st.sampled_from([0.1, 0.2, 0.4, 0.7, 0.9]))


@LAW
@given(answers)
def test_swapped_classes_give_the_metrics_of_the_swapped_answers(images: NDArray[np.int64]) -> None:
    labels, a, b = images
    macro_f1, balanced = macro_f1_flips(labels, a, b, GROUPS), balanced_accuracy_flips(labels, a, b, GROUPS)
    assert macro_f1.groups == balanced.groups == 8
    for row, found_f1, found_balanced in zip(SWAPS, macro_f1.of(SWAPS), balanced.of(SWAPS), strict=True):
        x, y = np.where(row[GROUPS], b, a), np.where(row[GROUPS], a, b)
        expected = [float(f1_score(labels, z, average="macro", zero_division=0)) for z in (x, y)]
        assert found_f1 == pytest.approx(expected[0] - expected[1], abs=1e-12)
        # Recall of the classes that occur; balanced_accuracy_score warns about predictions of other ones.
        recalls = [np.mean([(z[labels == c] == c).mean() for c in np.unique(labels)]) for z in (x, y)]
        assert found_balanced == pytest.approx(recalls[0] - recalls[1], abs=1e-12)


@LAW
@given(ties)
def test_swapped_ranks_give_the_area_of_the_swapped_ranks(scores: NDArray[np.float64]) -> None:
    positive = np.array([1, 0, 0, 1, 1, 0, 0, 1, 0, 1, 0, 0], dtype=bool)
    found = auroc_flips(positive, scores[0], scores[1], GROUPS).of(SWAPS)
    a, b = (np.array([(np.sum(s < x) + np.sum(s <= x)) / 2 for x in s]) for s in scores)
    for row, difference in zip(SWAPS, found, strict=True):
        x, y = np.where(row[GROUPS], b, a), np.where(row[GROUPS], a, b)
        assert difference == pytest.approx(roc_auc_score(positive, x) - roc_auc_score(positive, y), abs=1e-12)
    areas = [roc_auc_score(positive, s) for s in scores]
    assert found[0] == pytest.approx(areas[0] - areas[1], abs=1e-12)
    assert found[1] == pytest.approx(-found[0], abs=1e-15)
    # The scale of one model's scores means nothing to its ranks.
    np.testing.assert_array_equal(auroc_flips(positive, scores[0] / 100, scores[1] ** 3, GROUPS).of(SWAPS), found)


@LAW
@given(answers, ties)
def test_every_metric_is_symmetric_in_the_models(images: NDArray[np.int64], scores: NDArray[np.float64]) -> None:
    labels, a, b = images
    positive = np.array([1, 0, 0, 1, 1, 0, 0, 1, 0, 1, 0, 0], dtype=bool)
    for one, other in (
        (macro_f1_flips(labels, a, b, GROUPS), macro_f1_flips(labels, b, a, GROUPS)),
        (balanced_accuracy_flips(labels, a, b, GROUPS), balanced_accuracy_flips(labels, b, a, GROUPS)),
        (auroc_flips(positive, scores[0], scores[1], GROUPS), auroc_flips(positive, scores[1], scores[0], GROUPS)),
        (sum_flips(scores[0], scores[1], GROUPS), sum_flips(scores[1], scores[0], GROUPS)),
    ):
        np.testing.assert_allclose(one.of(SWAPS), -other.of(SWAPS), atol=1e-12)
        np.testing.assert_allclose(one.of(SWAPS), -one.of(~SWAPS), atol=1e-12)


def test_a_mean_over_folds_swaps_the_groups_of_each_fold() -> None:
    random = np.random.default_rng(0)
    positive, scores, groups = np.arange(20) % 2 == 0, random.random((2, 20)), np.arange(20) // 2
    parts = [
        auroc_flips(positive[rows], scores[0, rows], scores[1, rows], groups[rows])
        for rows in (slice(10), slice(10, 20))
    ]
    swaps = random.integers(0, 2, (5, 10), dtype=bool)
    expected = (parts[0].of(swaps[:, :5]) + parts[1].of(swaps)) / 2
    together = mean_flips(parts)
    np.testing.assert_allclose(together.of(swaps), expected, atol=1e-15)
    assert together.groups == 10


def test_a_better_ranking_is_told_from_a_worse_one() -> None:
    random = np.random.default_rng(0)
    positive, groups = np.arange(120) % 2 == 0, np.arange(120) // 3
    good, bad = positive + random.normal(0, 0.5, 120), positive + random.normal(0, 3, 120)
    found = flips_test(auroc_flips(positive, good, bad, groups))
    assert found.difference > 0.2
    assert found.p < 0.001
    assert flips_test(auroc_flips(positive, good, good * 2, groups)).p == 1
