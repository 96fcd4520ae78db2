from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy.stats import binomtest, false_discovery_control, ttest_1samp

from overlay.evaluation.flips import sum_flips
from overlay.evaluation.paired_tests import (
    FLIPS,
    corrected_resampled_t,
    exact_flips_p,
    flips_test,
    holm,
    share_flips_test,
)

LAW = settings(deadline=None, max_examples=100)


def by_enumeration(sums: list[int]) -> Fraction:
    observed = abs(sum(sums))
    totals = [
        abs(sum(sign * size for sign, size in zip(signs, sums, strict=True)))
        for signs in product((-1, 1), repeat=len(sums))
    ]
    return Fraction(sum(total >= observed for total in totals), len(totals))


@pytest.mark.parametrize(
    ("more", "fewer", "p"),
    [
        (15, 5, Fraction(5425, 131072)),
        (2, 8, Fraction(7, 64)),
        (0, 6, Fraction(1, 32)),
        (0, 0, Fraction(1)),
    ],
)
def test_groups_of_one_give_mcnemars_exact_test(more: int, fewer: int, p: Fraction) -> None:
    both = np.array([True] * 3 + [False] * 4)
    candidate = np.concatenate([both, np.ones(more, dtype=bool), np.zeros(fewer, dtype=bool)])
    reference = np.concatenate([both, np.zeros(more, dtype=bool), np.ones(fewer, dtype=bool)])
    found = share_flips_test(candidate, reference, np.arange(len(candidate)))
    assert found.p == pytest.approx(float(p), rel=1e-13)
    assert found.difference == pytest.approx((more - fewer) / len(candidate), abs=1e-15)
    assert found.flips is None


@pytest.mark.parametrize(("sums", "p"), [([2, 1, 1, -1], 0.5), ([2, 2, 1], 0.25), ([], 1), ([3], 1), ([0, 0], 1)])
def test_flips_of_groups(sums: list[int], p: float) -> None:
    assert exact_flips_p(np.array(sums, dtype=np.int64)) == pytest.approx(p, abs=1e-15)


def test_images_of_a_group_flip_together() -> None:
    candidate = np.array([1, 1, 1, 1, 0, 1], dtype=bool)
    reference = np.array([0, 0, 0, 0, 1, 1], dtype=bool)
    # Group 0 has two images that only the candidate answers right, group 3 one that only the reference does.
    found = share_flips_test(candidate, reference, np.array([0, 0, 1, 2, 3, 3]))
    assert found.p == pytest.approx(float(by_enumeration([2, 1, 1, -1])), abs=1e-15)
    assert share_flips_test(candidate, reference, np.arange(6)).p == pytest.approx(binomtest(4, 5).pvalue, abs=1e-15)


@LAW
@given(st.lists(st.integers(-4, 4), max_size=9))
def test_dynamic_programming_counts_what_enumeration_does(sums: list[int]) -> None:
    found = exact_flips_p(np.array(sums, dtype=np.int64))
    assert found == pytest.approx(float(by_enumeration(sums)), rel=1e-12)
    assert exact_flips_p(-np.array(sums[::-1], dtype=np.int64)) == pytest.approx(found, rel=1e-12)


@LAW
@given(st.integers(0, 300), st.integers(0, 300))
def test_sums_of_one_give_the_binomial_test(more: int, fewer: int) -> None:
    found = exact_flips_p(np.repeat([1, -1], [more, fewer]))
    expected = binomtest(more, more + fewer).pvalue if more + fewer else 1.0
    assert found == pytest.approx(expected, rel=1e-9)


def test_random_flips_agree_with_the_exact_ones() -> None:
    random = np.random.default_rng(3)
    groups = np.sort(random.integers(0, 60, 150))
    candidate, reference = random.random(150) < 0.85, random.random(150) < 0.8
    exact = share_flips_test(candidate, reference, groups)
    difference = sum_flips(candidate / 150, reference / 150, groups)
    drawn = flips_test(difference)
    assert 0.01 < exact.p < 0.99
    assert drawn.difference == pytest.approx(exact.difference, abs=1e-15)
    # Four standard errors of 9,999 draws.
    assert drawn.p == pytest.approx(exact.p, abs=4 * np.sqrt(exact.p * (1 - exact.p) / FLIPS))
    assert flips_test(difference) == drawn
    assert flips_test(difference, seed=1).p != drawn.p


def test_random_flips_count_the_observed_answer_so_that_p_is_never_0() -> None:
    groups = np.arange(40)
    found = flips_test(sum_flips(np.ones(40) / 40, np.zeros(40), groups))
    assert (found.p, found.flips) == (1 / (1 + FLIPS), FLIPS)
    assert flips_test(sum_flips(np.ones(40), np.ones(40), groups)).p == 1


@LAW
@given(hnp.arrays(np.float64, (2, 12), elements=st.floats(0, 1, width=16)), st.permutations(range(12)))
def test_random_flips_are_symmetric_and_do_not_depend_on_the_order(
    losses: NDArray[np.float64], order: list[int]
) -> None:
    groups = np.array([0, 0, 1, 2, 2, 2, 3, 4, 5, 5, 6, 7])
    found = flips_test(sum_flips(losses[0] / 12, losses[1] / 12, groups))
    mirrored = flips_test(sum_flips(losses[1] / 12, losses[0] / 12, groups))
    shuffled = flips_test(sum_flips(losses[0][order] / 12, losses[1][order] / 12, groups[order]))
    assert mirrored.difference == pytest.approx(-found.difference, abs=1e-15)
    assert mirrored.p == shuffled.p == found.p


@pytest.mark.parametrize(
    ("test_to_train", "t", "p"),
    [(1 / 3, np.sqrt(3), 0.1583024234), (1 / 4, 4 * np.sqrt(2) / 3, 0.1324189222), (0, 2 * np.sqrt(2), 0.0474207)],
)
def test_corrected_resampled_t(test_to_train: float, t: float, p: float) -> None:
    found = corrected_resampled_t(np.array([0.02, 0.04, 0, 0.03, 0.01]), test_to_train)
    assert found.difference == pytest.approx(0.02, abs=1e-15)
    assert found.t == pytest.approx(t, abs=1e-12)
    assert found.p == pytest.approx(p, abs=5e-8 if test_to_train == 0 else 5e-11)
    assert found.degrees_of_freedom == 4


@LAW
@given(hnp.arrays(np.float64, st.integers(2, 12), elements=st.floats(-1, 1, width=16)), st.floats(0, 1))
def test_the_correction_only_makes_p_larger(differences: NDArray[np.float64], ratio: float) -> None:
    found, plain = corrected_resampled_t(differences, ratio), corrected_resampled_t(differences, 0)
    assert 0 <= plain.p <= found.p + 1e-12
    assert found.p <= 1
    if differences.std() > 0:
        assert plain.p == pytest.approx(ttest_1samp(differences, 0).pvalue, abs=1e-9)


def test_differences_without_a_spread() -> None:
    assert corrected_resampled_t(np.zeros(5), 1 / 3).p == 1
    same = corrected_resampled_t(np.full(5, -0.1), 1 / 3)
    assert (same.t, same.p) == (-np.inf, 0)


def test_one_difference_has_no_spread() -> None:
    with pytest.raises(ValueError, match="at least 2 differences and was given 1"):
        corrected_resampled_t(np.array([0.1]), 0.5)


def test_holms_adjusted_p() -> None:
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03])), [0.03, 0.06, 0.06], atol=1e-15)
    assert holm(np.array([])).shape == (0,)
    np.testing.assert_array_equal(holm(np.array([0.7, 0.6])), [1, 1])


@LAW
@given(hnp.arrays(np.float64, st.integers(1, 8), elements=st.floats(0, 1)))
def test_holm_keeps_the_order_and_lies_between_the_p_and_bonferronis(p: NDArray[np.float64]) -> None:
    adjusted = holm(p)
    assert (p <= adjusted).all()
    assert (adjusted <= np.minimum(1, p * len(p)) + 1e-15).all()
    assert (np.diff(adjusted[np.argsort(p, kind="stable")]) >= 0).all()
    # Holm controls more than the false discovery rate.
    assert (adjusted >= false_discovery_control(p) - 1e-12).all()
