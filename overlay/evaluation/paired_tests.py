"""Paired tests of two models on the same images: group flips, McNemar's exact test, corrected resampled t, Holm.

Null hypothesis of the flips: the two models' answers to the images of a group could be swapped. Groups (patients, or
near-duplicates) are swapped as a whole, since McNemar's test of single images rejects far too often where images depend
on each other. These are claims about the two trained models; a claim about the two ways of training, over the folds of
a cross-validation, is the corrected resampled t test.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr

from overlay.evaluation.flips import FlippedDifference

FLIPS = 9_999
# Numbers held at once for a block of flips: 8 MB.
_BLOCK = 2**20
# Differences that are equal in exact arithmetic differ by less than this after rounding.
_TIE = 1e-12


@dataclass(frozen=True)
class FlipsTest:
    """Two-sided test by swapping two models' answers group by group."""

    difference: float
    """candidate minus reference"""
    p: float
    flips: int | None
    """number of random flips; None where the distribution is exact"""


@dataclass(frozen=True)
class ResampledTTest:
    """Two-sided corrected resampled t test over folds."""

    difference: float
    """mean over the folds"""
    t: float
    degrees_of_freedom: int
    p: float


def share_flips_test(
    candidate_right: NDArray[np.bool_], reference_right: NDArray[np.bool_], groups: NDArray[np.int64]
) -> FlipsTest:
    """Exact group flips test of two shares of the same images: accuracy, recall of a class, sensitivity, specificity.

    With groups of one image it is McNemar's exact test (McNemar 1947, Psychometrika 12:153).

    Args:
        candidate_right: (n,) whether the candidate is right; n at least 1, of a recall only the images of its class.
        reference_right: (n,) the same of the reference.
        groups: (n,) non-negative integers, equal for images of one group.
    """
    sums = np.bincount(groups, candidate_right.astype(np.float64) - reference_right).astype(np.int64)
    return FlipsTest(int(sums.sum()) / len(groups), exact_flips_p(sums), None)


def exact_flips_p(sums: NDArray[np.int64]) -> float:
    """Return the share of all 2^G choices of signs for which the sum is at least as far from 0 as it is.

    Dynamic programming over the possible sums, O(G' T + T) for G' groups whose sum is beyond -1 and 1, T the total of
    the absolute sums.

    Args:
        sums: (G,) of each group, the images that only the candidate answers right minus those only the reference does.
    """
    from scipy.stats import binom  # takes a second to import, and a prediction has no tests

    sizes = np.abs(sums[sums != 0])
    total, observed = int(sizes.sum()), abs(int(sums.sum()))
    if observed == 0:
        return 1.0
    # With B the groups of positive sign, the sum is 2 * (sum of their sizes) - total; this is the law of that size.
    ones = int((sizes == 1).sum())
    law = np.zeros(total + 1)
    law[: ones + 1] = binom.pmf(np.arange(ones + 1), ones, 0.5)
    reach = ones
    for size in sizes[sizes > 1].tolist():
        law[: reach + 1] /= 2
        # The two slices overlap; NumPy adds as if they did not.
        law[size : size + reach + 1] += law[: reach + 1]
        reach += size
    # By symmetry twice the lower tail, whose terms are summed from the smallest on.
    return min(1.0, 2 * float(law[: (total - observed) // 2 + 1].sum()))


def flips_test(difference: FlippedDifference, seed: int = 0) -> FlipsTest:
    """Group flips test of any metric by 9,999 random flips, p = (1 + #) / (1 + 9,999) (Phipson & Smyth 2010).

    # counts the flips whose difference is at least as far from 0 as the observed one.
    """
    random = np.random.default_rng(seed)
    observed = float(difference.of(np.zeros((1, difference.groups), dtype=bool))[0])
    block = max(1, _BLOCK // difference.width)
    extreme = 0
    for start in range(0, FLIPS, block):
        shape = (min(block, FLIPS - start), difference.groups)
        flipped = difference.of(random.integers(0, 2, size=shape, dtype=bool))
        extreme += int((np.abs(flipped) >= abs(observed) - _TIE).sum())
    return FlipsTest(observed, (1 + extreme) / (1 + FLIPS), FLIPS)


def corrected_resampled_t(differences: NDArray[np.float64], test_to_train: float) -> ResampledTTest:
    """Corrected resampled t test of two ways of training over folds (Nadeau & Bengio 2003, Mach. Learn. 52:239).

    The folds share training images, which the term ``test_to_train`` makes up for.

    Args:
        differences: (k r,) of the metric, candidate minus reference, for k folds times r repetitions; at least 2.
        test_to_train: images of a test fold for each training image: 1 / (k - 2) where one fold is for validation.

    Returns:
        The test; where all differences are equal, t is 0 and p is 1 if they are 0, else t is infinite and p is 0.

    Raises:
        ValueError: fewer than two differences.
    """
    count = len(differences)
    if count < 2:
        raise ValueError(f"the corrected resampled t test needs at least 2 differences and was given {count}")
    mean, variance = float(differences.mean()), float(differences.var(ddof=1))
    error = float(np.sqrt((1 / count + test_to_train) * variance))
    t = mean / error if error > _TIE else _t_without_spread(mean)
    return ResampledTTest(mean, t, count - 1, 2 * float(stdtr(count - 1, -abs(t))))


def holm(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return Holm's adjusted p-values of (m,) tests in their order (Holm 1979, Scand. J. Stat. 6:65)."""
    order = np.argsort(p, kind="stable")
    stepped = p[order] * np.arange(len(p), 0, -1)
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(np.maximum.accumulate(stepped), 1.0)
    return adjusted


def _t_without_spread(mean: float) -> float:
    return 0.0 if abs(mean) <= _TIE else float(np.copysign(np.inf, mean))
