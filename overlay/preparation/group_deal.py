"""Assignment of groups to the sides of a split in random orders, with exchanges that settle the class shares.

The rule of StratifiedGroupKFold and of Sechidis et al., "On the stratification of multi-label data", ECML PKDD 2011,
assigns the largest groups first, and so leaves every patient with many images in the training split: no test image
would be of one. Here the order is random, so that the side of a group does not depend on its size. What an order leaves
of the classes' deviations is settled by exchanging groups of like size between sides.
"""

from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, permutations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

ORDERS = 32
"""random orders that are tried"""
_MOST_ASSIGNED = 1_000_000  # groups of all orders together, which takes about ten seconds
_BATCH = 10_000  # groups that are Python objects at one time


class Deal(NamedTuple):
    """Groups assigned in one random order."""

    sides: NDArray[np.int32]
    """(groups,)"""
    missing: set[int]
    """classes that are missing on a side"""
    deviation: float
    """largest distance of a class's images on a side from its quota there, as a share of the class's images"""
    size_distance: float
    """largest Kolmogorov-Smirnov distance of a side's group sizes from those of all, times the root of its groups"""


@dataclass(frozen=True)
class GroupSizes:
    """Number of images of each class in each group."""

    label: NDArray[np.int32]
    """(members,) class of each member, which is one class in one group; members are sorted by group"""
    counts: NDArray[np.int32]
    """(members,) images"""
    starts: NDArray[np.int32]
    """(groups + 1,) first member of each group"""
    images: NDArray[np.int64]
    """(classes,) images of each class"""

    @classmethod
    def count(cls, labels: NDArray[np.int32], groups: NDArray[np.int32]) -> "GroupSizes":
        """Count the images, (n,), of each class in each group; classes and groups are numbered from 0."""
        images = np.bincount(labels)
        members, counts = np.unique(groups.astype(np.int64) * len(images) + labels, return_counts=True)
        starts = np.searchsorted(members, np.arange(groups.max() + 2) * len(images))
        label = (members % len(images)).astype(np.int32)
        return cls(label, counts.astype(np.int32), starts.astype(np.int32), images)

    @property
    def groups_of_class(self) -> NDArray[np.int64]:
        """Number of groups of each class, (classes,)."""
        return np.bincount(self.label)

    @property
    def totals(self) -> NDArray[np.int64]:
        """Number of images of each group, (groups,)."""
        return np.add.reduceat(self.counts, self.starts[:-1], dtype=np.int64)

    def deal_best(self, quotas: NDArray[np.int64], draws: NDArray[np.uint64]) -> Deal:
        """Assign the groups in ``ORDERS`` random orders and return the deal of the least deviation.

        Of equal deviations, the one whose sides have the most equal group sizes. Fewer orders are tried where there are
        many groups, and one where each group is a single image.

        ``quotas``: images of each class for each side, (classes, sides). ``draws``: a random number of each group.
        """
        groups = len(draws)
        orders = max(1, min(ORDERS, _MOST_ASSIGNED // groups)) if groups < self.images.sum() else 1
        deals = (self._deal(quotas, _mix(draws, number)) for number in range(orders))
        return min(deals, key=lambda deal: (len(deal.missing), round(deal.deviation, 12), deal.size_distance))

    def _deal(self, quotas: NDArray[np.int64], draws: NDArray[np.uint64]) -> Deal:
        order = np.argsort(draws, kind="stable")
        sides, missing, deficits = self._assign(quotas, order)
        if not missing:
            self._exchange(sides, deficits, order)
        deviation = float((np.abs(deficits).max(axis=1) / self.images).max())
        return Deal(sides, missing, deviation, self._size_distance(sides, quotas.shape[1]))

    def _assign(
        self, quotas: NDArray[np.int64], order: NDArray[np.int64]
    ) -> tuple[NDArray[np.int32], set[int], NDArray[np.int64]]:
        """Assign each group, in this order, to the side with the largest deficits of its classes."""
        deficits: list[list[int]] = quotas.tolist()
        places = range(quotas.shape[1])
        missing = [set(places) for _ in deficits]
        waiting: list[int] = self.groups_of_class.tolist()  # groups of each class that are not assigned yet
        weights: list[float] = (1 / self.images.astype(float) ** 2).tolist()
        sides = np.zeros(len(order), np.int32)
        for group, within in self._members(order):
            # Urgent is a class with no more groups left than there are sides without it.
            urgent = [missing[kind] for kind, _ in within if waiting[kind] <= len(missing[kind])]
            if len(within) == 1 and not urgent:  # most groups
                row = deficits[within[0][0]]
                side = row.index(max(row))
            else:
                # Decrease of the squared error of the class shares, without the term that is equal for all sides.
                gains = [
                    sum(count * deficits[kind][place] * weights[kind] for kind, count in within) for place in places
                ]
                side = max(places, key=lambda side: (sum(side in lacking for lacking in urgent), gains[side], -side))
            sides[group] = side
            for kind, count in within:
                deficits[kind][side] -= count
                missing[kind].discard(side)
                waiting[kind] -= 1
        return sides, {kind for kind, lacking in enumerate(missing) if lacking}, np.array(deficits)

    def _members(self, order: NDArray[np.int64]) -> Iterator[tuple[int, list[tuple[int, int]]]]:
        """Yield each group with the class and the images of each of its members."""
        for first in range(0, len(order), _BATCH):  # as Python integers, all would take 100 bytes a group
            groups = order[first : first + _BATCH]
            sizes = self.starts[groups + 1] - self.starts[groups]
            ends = np.cumsum(sizes)
            members = np.arange(ends[-1]) + np.repeat(self.starts[groups] - (ends - sizes), sizes)
            within = iter(list(zip(self.label[members].tolist(), self.counts[members].tolist(), strict=True)))
            for group, size in zip(groups.tolist(), sizes.tolist(), strict=True):
                yield group, list(islice(within, size))

    def _exchange(self, sides: NDArray[np.int32], deficits: NDArray[np.int64], order: NDArray[np.int64]) -> None:
        """Exchange groups of one class between sides until no exchange brings the class closer to its quotas.

        ``sides`` and ``deficits`` are changed in place.
        """
        pure = np.diff(self.starts) == 1
        for kind in np.flatnonzero(np.abs(deficits).any(axis=1)):
            own = order[pure[order] & (self.label[self.starts[order]] == kind)]
            if len(own):
                by_size = _GroupsBySize(own, self.counts[self.starts[own]], sides)
                while by_size.exchange_once(deficits[kind]):
                    pass

    def _size_distance(self, sides: NDArray[np.int32], places: int) -> float:
        totals = self.totals
        every = np.cumsum(np.bincount(totals)) / len(totals)
        distances = [0.0]
        for place in range(places):
            sizes = totals[sides == place]
            if len(sizes):
                here = np.cumsum(np.bincount(sizes, minlength=len(every))) / len(sizes)
                distances.append(float(np.abs(here - every).max()) * len(sizes) ** 0.5)
        return max(distances)


class _GroupsBySize:
    """Groups of one class by side and size, in random order."""

    def __init__(self, groups: NDArray[np.int64], sizes: NDArray[np.int32], sides: NDArray[np.int32]) -> None:
        self._sides = sides
        self._of: dict[int, dict[int, array[int]]] = {}
        side_of = sides[groups]
        for side in np.unique(side_of).tolist():
            own, own_sizes = groups[side_of == side], sizes[side_of == side]
            self._of[side] = {
                size: array("q", own[own_sizes == size].tobytes()) for size in np.unique(own_sizes).tolist()
            }

    def exchange_once(self, deficits: NDArray[np.int64]) -> bool:
        """Exchange two groups, or else move one, between two sides where it brings both closer to their quotas."""
        pairs = sorted(
            permutations(range(len(deficits)), 2), key=lambda pair: deficits[pair[0]] - deficits[pair[1]]
        )  # the largest surplus to the largest deficit first
        for source, target in pairs:
            most = int(min(-deficits[source], deficits[target]))
            for difference in range(most, 0, -1):
                if chosen := next(self._matches(source, target, difference), None):
                    large, small = chosen
                    self._move(large, source, target)
                    if small:
                        self._move(small, target, source)
                    deficits[source] += difference
                    deficits[target] -= difference
                    return True
        return False

    def _matches(self, source: int, target: int, difference: int) -> Iterator[tuple[int, int]]:
        """Yield sizes of groups to exchange, the most frequent first; a size of 0 is that of no group."""
        here, there = self._of.get(source, {}), self._of.get(target, {})
        pairs = [(size, size - difference) for size, groups in here.items() if groups and there.get(size - difference)]
        yield from sorted(pairs, key=lambda pair: (-len(here[pair[0]]) * len(there[pair[1]]), pair))
        if here.get(difference) and sum(map(len, here.values())) > 1:  # the side keeps a group of the class
            yield difference, 0

    def _move(self, size: int, source: int, target: int) -> None:
        group = self._of[source][size].pop()
        self._of.setdefault(target, {}).setdefault(size, array("q")).insert(0, group)
        self._sides[group] = target


def _mix(draws: NDArray[np.uint64], number: int) -> NDArray[np.uint64]:
    """Return other random numbers for each order: the output function of SplitMix64.

    (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.)
    """
    x = draws + np.uint64(number * 0x9E3779B97F4A7C15 % 2**64)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
