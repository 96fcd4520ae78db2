"""Differences of a metric between two models after swaps of their answers, for many swaps at once.

Input of ``paired_tests.flips_test``. Each function takes the candidate's and the reference's answers to the same n
images and gives the difference as a function of which groups are swapped. ``groups`` is (n,) non-negative integers,
equal for images of one group, without large gaps.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array


@dataclass(frozen=True, eq=False)
class FlippedDifference:
    """Candidate's metric minus the reference's, as a function of the groups whose answers are swapped."""

    of: Callable[[NDArray[np.bool_]], NDArray[np.float64]]
    """(b, groups) whether to swap -> (b,) differences"""
    groups: int
    width: int
    """numbers that one row of swaps takes while it is computed"""


def sum_flips(
    candidate: NDArray[np.float64], reference: NDArray[np.float64], groups: NDArray[np.int64]
) -> FlippedDifference:
    """Difference of two sums over images: log loss or Brier score from (n,) losses divided by n."""
    sums = np.bincount(groups, candidate - reference)
    total = float(sums.sum())

    def of(swapped: NDArray[np.bool_]) -> NDArray[np.float64]:
        return total - 2 * (swapped.astype(np.float64) @ sums)

    return FlippedDifference(of, len(sums), len(sums))


def balanced_accuracy_flips(
    labels: NDArray[np.int64], candidate: NDArray[np.int64], reference: NDArray[np.int64], groups: NDArray[np.int64]
) -> FlippedDifference:
    """Difference in balanced accuracy of (n,) predicted class indices."""
    n = np.bincount(labels)
    weight = 1 / (n[labels] * int((n > 0).sum()))
    return sum_flips((candidate == labels) * weight, (reference == labels) * weight, groups)


def macro_f1_flips(
    labels: NDArray[np.int64], candidate: NDArray[np.int64], reference: NDArray[np.int64], groups: NDArray[np.int64]
) -> FlippedDifference:
    """Difference in macro-F1 of (n,) predicted class indices."""
    classes = int(max(labels.max(), candidate.max(), reference.max())) + 1
    count = int(groups.max()) + 1
    seen = np.bincount(labels, minlength=classes)

    def table(predicted: NDArray[np.int64]) -> csr_array:
        """(2 C, groups) counts: hits of each class, then images predicted as each class."""
        hit = predicted == labels
        rows = np.concatenate([predicted[hit], classes + predicted])
        columns = np.concatenate([groups[hit], groups])
        return csr_array((np.ones(len(rows)), (rows, columns)), shape=(2 * classes, count))

    ours, theirs = table(candidate), table(reference)
    change = theirs - ours
    our_total, their_total = ours.sum(axis=1), theirs.sum(axis=1)

    def macro_f1_of(counts: NDArray[np.float64]) -> NDArray[np.float64]:
        hits, either = counts[:classes], counts[classes:] + seen[:, None]
        f1 = 2 * hits / np.maximum(either, 1)
        return np.asarray(f1.sum(axis=0) / (either > 0).sum(axis=0), dtype=np.float64)

    def of(swapped: NDArray[np.bool_]) -> NDArray[np.float64]:
        moved = change @ swapped.T.astype(np.float64)
        return macro_f1_of(our_total[:, None] + moved) - macro_f1_of(their_total[:, None] - moved)

    return FlippedDifference(of, count, max(count, 4 * classes))


def auroc_flips(
    positive: NDArray[np.bool_],
    candidate: NDArray[np.float64],
    reference: NDArray[np.float64],
    groups: NDArray[np.int64],
) -> FlippedDifference:
    """Difference in AUROC of (n,) scores, with at least one positive and one negative image.

    Each model's scores are replaced by their ranks among its own, which leaves its AUROC as it is: one model's scores
    need not be on the other's scale (Bandos, Rockette & Gur 2005, Stat. Med. 24:2873). O(n) for each row of swaps.
    """
    from scipy.stats import rankdata  # takes a second to import, and a prediction has no tests

    ranks = np.concatenate([rankdata(candidate), rankdata(reference)])
    is_candidate = np.arange(len(ranks)) < len(positive)
    is_positive = np.concatenate([positive, positive])
    group = np.concatenate([groups, groups])

    # Both models' answers to the negative images, sorted; a positive answer beats those before it and half of its ties.
    negatives = np.flatnonzero(~is_positive)
    negatives = negatives[np.argsort(ranks[negatives], kind="stable")]
    positives = np.flatnonzero(is_positive)
    first = np.searchsorted(ranks[negatives], ranks[positives], "left")
    last = np.searchsorted(ranks[negatives], ranks[positives], "right")
    pairs = int(positive.sum()) * int((~positive).sum())

    def of(swapped: NDArray[np.bool_]) -> NDArray[np.float64]:
        # The answers that count as the candidate's: its own where the group is not swapped, else the reference's.
        taken = swapped[:, group[negatives]] != is_candidate[negatives]
        before = np.zeros((len(swapped), len(negatives) + 1))
        np.cumsum(taken, axis=1, out=before[:, 1:])
        ours = before[:, first] + before[:, last]
        theirs = first + last - ours
        of_candidate = swapped[:, group[positives]] != is_candidate[positives]
        return np.asarray(np.where(of_candidate, ours, -theirs).sum(axis=1) / (2 * pairs), dtype=np.float64)

    return FlippedDifference(of, int(groups.max()) + 1, 2 * len(ranks))


def mean_flips(parts: Sequence[FlippedDifference]) -> FlippedDifference:
    """Unweighted mean of differences under the same swaps: AUROC over classes (one against the rest), or over folds."""

    def of(swapped: NDArray[np.bool_]) -> NDArray[np.float64]:
        total = np.zeros(len(swapped))
        for part in parts:
            total += part.of(swapped[:, : part.groups])
        return total / len(parts)

    return FlippedDifference(of, max(part.groups for part in parts), max(part.width for part in parts))
