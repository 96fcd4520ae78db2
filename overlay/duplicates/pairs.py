"""Pairs of indices and their connected components; beyond 5 million pairs, only a spanning forest."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]

MOST_PAIRS = 5_000_000
"""most pairs that are listed; of more, only a spanning forest of the groups"""
_RELINK = 500_000
"""number of new links after which the groups are computed again"""


@dataclass(frozen=True)
class Pairs:
    """Pairs of indices, ``first < second``, each array (pairs,)."""

    first: Indices
    second: Indices
    distance: NDArray[np.uint8]
    """Hamming distance in bits"""
    complete: bool = True
    """false where there were more than ``MOST_PAIRS``: these pairs then link the same groups, but are not all"""

    def __len__(self) -> int:
        return len(self.first)


class PairCollector:
    """Collector of pairs; beyond ``MOST_PAIRS`` it keeps a spanning forest, which links the same groups."""

    def __init__(self, number: int, known: Pairs | None = None) -> None:
        self.groups: NDArray[np.int32] | None = None
        """group of each hash, int32 (n,), once there were more than ``MOST_PAIRS``; else None"""
        self._number = number
        self._parts: list[Pairs] = []
        self._count, self._most = 0, MOST_PAIRS
        if known is not None and not known.complete:
            self.add_links(known)

    def add(self, part: Pairs) -> None:
        """Add pairs, of which none was added before."""
        if self.groups is not None:
            part = select_pairs(part, np.flatnonzero(self.groups[part.first] != self.groups[part.second]))
        self._parts.append(part)
        self._count += len(part)
        if self._count > self._most:
            self._reduce()

    def add_links(self, more: Pairs) -> None:
        """Add pairs, of which some may have been added before; only once a spanning forest is kept."""
        self.add(more)
        self._reduce()

    def _reduce(self) -> None:
        links = _forest(join_pairs(self._parts), self._number)
        self.groups = connected_components([(links.first, links.second)], self._number)
        self._parts, self._count = [links], len(links)
        self._most = len(links) + min(_RELINK, MOST_PAIRS)

    def collect(self) -> Pairs:
        """Return the collected pairs."""
        return replace(join_pairs(self._parts), complete=self.groups is None)


def merge_pairs(parts: Sequence[Pairs], number: int) -> Pairs:
    """Join pairs of ``number`` nodes; a spanning forest, where there are too many or some are only that already."""
    if all(part.complete for part in parts) and sum(map(len, parts)) <= MOST_PAIRS:
        return join_pairs(parts)
    collector = PairCollector(number)
    for part in parts:
        collector.add_links(part)  # several parts may have the same links
    return collector.collect()


def connected_components(links: Sequence[tuple[Indices, Indices]], number: int) -> NDArray[np.int32]:
    """Return the connected component, counted from 0, of each of ``number`` nodes, int32 (number,).

    ``links``: arrays of edges, each as the indices of their two ends.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    left, right = (np.concatenate([link[side] for link in links]) for side in (0, 1))
    graph = coo_array((np.ones(len(left), bool), (left, right)), shape=(number, number))
    components: NDArray[np.int32] = connected_components(graph, directed=False)[1]
    return components


def _forest(pairs: Pairs, hashes: int) -> Pairs:
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import minimum_spanning_tree

    weights = pairs.distance + 1.0  # since a weight of 0 is no edge
    tree = minimum_spanning_tree(coo_array((weights, (pairs.first, pairs.second)), shape=(hashes, hashes))).tocoo()
    return Pairs(tree.row.astype(np.int64), tree.col.astype(np.int64), (tree.data - 1).astype(np.uint8), complete=False)


def expand_to_all(pairs: Pairs, kind: Indices, distinct: int) -> Pairs:
    """Expand pairs of ``distinct`` hashes to pairs of all hashes.

    ``kind`` is the index of the distinct hash of each hash, (n,). Equal hashes are pairs of distance 0.
    """
    members = np.argsort(kind, kind="stable")
    starts = np.searchsorted(kind[members], np.arange(distinct + 1))
    sizes = np.diff(starts)
    repeated = np.flatnonzero(sizes > 1)
    left = np.concatenate([pairs.first, repeated])
    right = np.concatenate([pairs.second, repeated])
    distances = np.concatenate([pairs.distance, np.zeros(len(repeated), np.uint8)])
    counts = sizes[left] * sizes[right]
    number = counts[: len(pairs)].sum() + (sizes * (sizes - 1) // 2).sum()
    if pairs.complete and number <= MOST_PAIRS:
        which = np.repeat(np.arange(len(left)), counts)
        place = np.arange(len(which)) - np.repeat(np.cumsum(counts) - counts, counts)
        across = sizes[right[which]]
        first = members[starts[left[which]] + place // across]
        second = members[starts[right[which]] + place % across]
        once = (left[which] != right[which]) | (first < second)
        return order_pairs(first[once], second[once], distances[which][once])
    linked = _forest(pairs, distinct)
    leaders = members[starts[:-1]]
    others = np.setdiff1d(members, leaders)
    return replace(
        order_pairs(
            np.concatenate([leaders[linked.first], leaders[kind[others]]]),
            np.concatenate([leaders[linked.second], others]),
            np.concatenate([linked.distance, np.zeros(len(others), np.uint8)]),
        ),
        complete=False,
    )


def order_pairs(left: Indices, right: Indices, distance: NDArray[np.uint8]) -> Pairs:
    """Return pairs with their ends in ascending order, from ends in any order."""
    return Pairs(np.minimum(left, right), np.maximum(left, right), distance)


def select_pairs(pairs: Pairs, places: Indices) -> Pairs:
    """Return the pairs at the given positions."""
    return Pairs(pairs.first[places], pairs.second[places], pairs.distance[places], pairs.complete)


def join_pairs(parts: Sequence[Pairs]) -> Pairs:
    """Concatenate pairs."""
    if not parts:
        return Pairs(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.uint8))
    return Pairs(
        np.concatenate([part.first for part in parts]),
        np.concatenate([part.second for part in parts]),
        np.concatenate([part.distance for part in parts]),
    )
