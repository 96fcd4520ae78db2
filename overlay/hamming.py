"""All pairs of 256-bit hashes within a Hamming distance, exactly, without comparing all with all.

Multi-index hashing (Norouzi, Punjani, Fleet, "Fast exact search in Hamming space with multi-index hashing", 2014,
arXiv:1307.2982): the bits are dealt out to m chunks, and two hashes within the distance must be within a small radius
of each other in at least one chunk. So a table by the chunk's value, asked for every value within the radius, has all
pairs among its few candidates. Small sets, and sets so alike that most pairs are candidates, are compared outright.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]
Indices = NDArray[np.int64]

BITS = 256
WORDS = BITS // 64
MOST_PAIRS = 5_000_000
"""pairs that are listed; of more, only those that hold the groups together"""
_SMALL = 10_000
"""hashes up to which all are compared with all, which takes a quarter of a second"""
_DENSE = 8
"""a candidate costs as much as this many comparisons of contiguous hashes"""
_RADIUS = 2
_KEY_BITS = 20
_CANDIDATES = 2_000_000
"""candidates in memory at one time"""


@dataclass(frozen=True)
class Pairs:
    """Pairs of indices, ``first < second``."""

    first: Indices
    second: Indices
    distance: NDArray[np.uint8]
    complete: bool = True
    """false where there were more than ``MOST_PAIRS``: these link the same groups then, but are not all pairs"""

    def __len__(self) -> int:
        return len(self.first)


def parse(digests: Sequence[bytes]) -> Hashes:
    """Return hashes of 32 bytes as 64-bit words, (n, 4)."""
    return np.frombuffer(b"".join(digests), ">u8").reshape(-1, WORDS).astype(np.uint64)


def near_pairs(hashes: Hashes, distance: int) -> Pairs:
    """Return all pairs of hashes, (n, 4), that differ in at most ``distance`` bits; each once, in ascending order."""
    distinct, kind = np.unique(hashes, axis=0, return_inverse=True)
    chunks = _chunks(distance)
    index = len(distinct) > _SMALL and _candidates(distinct, chunks) * _DENSE < len(distinct) ** 2 / 2
    found = _indexed(distinct, distance, chunks) if index else compare_all(distinct, distance)
    pairs = _of_all(_gathered(found, len(distinct)), kind, len(distinct))
    return _chosen(pairs, np.lexsort((pairs.second, pairs.first)))


@dataclass(frozen=True)
class _Chunk:
    bits: NDArray[np.int64]
    radius: int

    def keys(self, hashes: Hashes) -> NDArray[np.int64]:
        """Return the value of the chunk in each hash, (n,)."""
        keys = np.zeros(len(hashes), np.int64)
        for place, bit in enumerate(self.bits):
            value = (hashes[:, bit // 64] >> np.uint64(bit % 64)) & np.uint64(1)
            keys |= value.astype(np.int64) << place
        return keys

    def masks(self) -> list[int]:
        """List what two values within the radius can differ by."""
        places = range(len(self.bits))
        return [sum(1 << place for place in flips) for n in range(self.radius + 1) for flips in combinations(places, n)]


def _chunks(distance: int) -> list[_Chunk]:
    """Deal the bits out.

    Two hashes that are further apart than its radius in every chunk differ in at least the sum of (radius + 1) bits,
    so that sum is made distance + 1. A chunk longer than the key is cut, which only adds candidates. The bits are
    dealt at random, since neighbours in a pHash are frequencies that go together.
    """
    number = math.ceil((distance + 1) / (_RADIUS + 1))
    spare = number * (_RADIUS + 1) - (distance + 1)
    dealt = np.array_split(np.random.default_rng(0).permutation(BITS), number)
    return [
        _Chunk(bits[:_KEY_BITS], _RADIUS - spare // number - (place < spare % number))
        for place, bits in enumerate(dealt)
    ]


def _candidates(hashes: Hashes, chunks: list[_Chunk]) -> float:
    """Estimate from a sample of the hashes how many candidates the index would give."""
    sample = np.random.default_rng(0).choice(len(hashes), min(500, len(hashes)), replace=False)
    found = 0
    for chunk in chunks:
        keys = chunk.keys(hashes)
        counts = np.bincount(keys, minlength=1 << len(chunk.bits))
        found += sum(int(counts[keys[sample] ^ mask].sum()) for mask in chunk.masks())
    return found * len(hashes) / len(sample) / 2


def _indexed(hashes: Hashes, distance: int, chunks: list[_Chunk]) -> Iterator[Pairs]:
    keys = [chunk.keys(hashes) for chunk in chunks]
    for number, chunk in enumerate(chunks):
        order = np.argsort(keys[number], kind="stable")
        key = keys[number][order]
        starts = np.searchsorted(key, np.arange((1 << len(chunk.bits)) + 1))
        halves = np.ascontiguousarray(hashes[order, :2]), np.ascontiguousarray(hashes[order, 2:])
        for mask in chunk.masks():
            for left, right in _neighbours(key, starts, mask):
                # Half of the bits rule out nearly all candidates, for half of the memory traffic.
                distances = _distances(halves[0], left, right)
                kept = np.flatnonzero(distances <= distance)
                left, right = left[kept], right[kept]
                distances = distances[kept] + _distances(halves[1], left, right)
                kept = np.flatnonzero(distances <= distance)
                first, second = order[left[kept]], order[right[kept]]
                new = np.ones(len(kept), bool)
                for earlier in range(number):
                    apart = np.bitwise_count(keys[earlier][first] ^ keys[earlier][second])
                    new &= apart > chunks[earlier].radius
                first, second = first[new], second[new]
                if len(first):
                    yield _ordered(first, second, distances[kept][new])


def _neighbours(key: Indices, starts: Indices, mask: int) -> Iterator[tuple[Indices, Indices]]:
    """Yield the places, in the sorted keys, of all pairs whose keys differ by exactly ``mask``, each pair once."""
    if mask:
        places = np.flatnonzero(key & (1 << (mask.bit_length() - 1)) == 0)
        begin, end = starts[key[places] ^ mask], starts[(key[places] ^ mask) + 1]
    else:
        places = np.arange(len(key))
        begin, end = places + 1, starts[key + 1]
    counts = end - begin
    some = counts > 0
    places, begin, counts = places[some], begin[some], counts[some]
    if not len(places):
        return
    totals = np.cumsum(counts)
    cuts = np.searchsorted(totals, np.arange(_CANDIDATES, totals[-1], _CANDIDATES))
    for part in np.split(np.arange(len(places)), cuts):
        ends = np.cumsum(counts[part])
        total = ends[-1] if len(part) else 0
        left = np.repeat(places[part], counts[part])
        yield left, np.arange(total) + np.repeat(begin[part] - (ends - counts[part]), counts[part])


def _distances(words: Hashes, left: Indices, right: Indices) -> NDArray[np.uint8]:
    differing: NDArray[np.uint8] = np.bitwise_count(words[left] ^ words[right])
    total: NDArray[np.uint8] = differing[:, 0] + differing[:, 1]
    return total


def compare_all(hashes: Hashes, distance: int) -> Iterator[Pairs]:
    """Yield the pairs of hashes, (n, 4), within a distance, from a comparison of all with all."""
    rows, columns = 16, 4096
    words = [np.ascontiguousarray(hashes[:, word]) for word in range(WORDS)]

    def compare(top: int) -> Pairs:
        found = []
        for start in range(top, len(hashes), columns):
            block = np.zeros((min(rows, len(hashes) - top), min(columns, len(hashes) - start)), np.uint16)
            for word in words:
                block += np.bitwise_count(word[top : top + rows, None] ^ word[None, start : start + columns])
            near = np.flatnonzero(block <= distance)
            first, second = near // block.shape[1] + top, near % block.shape[1] + start
            later = second > first
            found.append(Pairs(first[later], second[later], block.ravel()[near][later].astype(np.uint8)))
        return _joined(found)

    # NumPy lets go of the interpreter's lock while it counts.
    with ThreadPoolExecutor() as pool:
        for top in range(0, len(hashes), 64 * rows):  # so that little waits for whoever takes the pairs
            yield from pool.map(compare, range(top, min(top + 64 * rows, len(hashes)), rows))


def _gathered(found: Iterable[Pairs], hashes: int) -> Pairs:
    """Join the parts; of more than ``MOST_PAIRS`` keep what links the same groups."""
    parts: list[Pairs] = []
    linked: NDArray[np.int32] | None = None
    for part in found:
        if linked is not None:
            part = _chosen(part, np.flatnonzero(linked[part.first] != linked[part.second]))
        parts.append(part)
        if sum(map(len, parts)) > MOST_PAIRS:
            parts = [_forest(_joined(parts), hashes)]
            linked = connected([(parts[0].first, parts[0].second)], hashes)
    return replace(_joined(parts), complete=linked is None)


def connected(links: list[tuple[Indices, Indices]], number: int) -> NDArray[np.int32]:
    """Return the component, counted from 0, of each of ``number`` things that are linked in pairs."""
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


def _of_all(pairs: Pairs, kind: Indices, distinct: int) -> Pairs:
    """From pairs of distinct hashes to pairs of all: ``kind`` says which distinct hash each one is."""
    members = np.argsort(kind, kind="stable")
    starts = np.searchsorted(kind[members], np.arange(distinct + 1))
    sizes = np.diff(starts)
    repeated = np.flatnonzero(sizes > 1)
    left = np.concatenate([pairs.first, repeated])
    right = np.concatenate([pairs.second, repeated])
    distances = np.concatenate([pairs.distance, np.zeros(len(repeated), np.uint8)])
    counts = sizes[left] * sizes[right]
    if pairs.complete and counts.sum() <= MOST_PAIRS:
        which = np.repeat(np.arange(len(left)), counts)
        place = np.arange(len(which)) - np.repeat(np.cumsum(counts) - counts, counts)
        across = sizes[right[which]]
        first = members[starts[left[which]] + place // across]
        second = members[starts[right[which]] + place % across]
        once = (left[which] != right[which]) | (first < second)
        return _ordered(first[once], second[once], distances[which][once])
    linked = _forest(pairs, distinct)
    leaders = members[starts[:-1]]
    others = np.setdiff1d(members, leaders)
    return replace(
        _ordered(
            np.concatenate([leaders[linked.first], leaders[kind[others]]]),
            np.concatenate([leaders[linked.second], others]),
            np.concatenate([linked.distance, np.zeros(len(others), np.uint8)]),
        ),
        complete=False,
    )


def _ordered(left: Indices, right: Indices, distance: NDArray[np.uint8]) -> Pairs:
    return Pairs(np.minimum(left, right), np.maximum(left, right), distance)


def _chosen(pairs: Pairs, places: Indices) -> Pairs:
    return Pairs(pairs.first[places], pairs.second[places], pairs.distance[places], pairs.complete)


def _joined(parts: list[Pairs]) -> Pairs:
    if not parts:
        return Pairs(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.uint8))
    return Pairs(
        np.concatenate([part.first for part in parts]),
        np.concatenate([part.second for part in parts]),
        np.concatenate([part.distance for part in parts]),
    )
