"""A table of hashes by parts of their bits, which gives the few candidates for being near: multi-index hashing.

Norouzi, Punjani, Fleet, "Fast exact search in Hamming space with multi-index hashing", 2014, arXiv:1307.2982: the bits
are dealt out to m chunks, and two hashes within the distance must be within a small radius of each other in at least
one chunk. So a table by the chunk's value, asked for every value within the radius, has all pairs among its candidates.

Thousands of frames of one video are all near each other, and have more pairs than anybody reads. Once only links
between groups are looked for, what is linked already is left out before it becomes a candidate.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from overlay.duplicates.pairs import MOST_PAIRS, Gathered, Indices, Pairs, join_pairs, order_pairs

Hashes = NDArray[np.uint64]
Keys = NDArray[np.int32]

BITS = 256
_RADIUS = 2
_KEY_BITS = 20
_CANDIDATES = 500_000
"""candidates in memory at one time"""
_CROWD = 16
"""candidates of one hash from which on it is worth a look which of them it is linked with already"""
_SAMPLE = 200


@dataclass(frozen=True)
class HashChunk:
    """Some of the bits, and how far two hashes may be apart in them to be candidates."""

    bits: NDArray[np.int64]
    radius: int

    def keys(self, hashes: Hashes) -> Keys:
        """Return the value of the chunk in each hash, (n,)."""
        keys = np.zeros(len(hashes), np.int32)
        for place, bit in enumerate(self.bits):
            value = (hashes[:, bit // 64] >> np.uint64(bit % 64)) & np.uint64(1)
            keys |= value.astype(np.int32) << np.int32(place)
        return keys

    def masks(self) -> list[int]:
        """List what two values within the radius can differ by."""
        places = range(len(self.bits))
        return [sum(1 << place for place in flips) for n in range(self.radius + 1) for flips in combinations(places, n)]


def hash_chunks(distance: int) -> list[HashChunk]:
    """Deal the bits out.

    Two hashes that are further apart than its radius in every chunk differ in at least the sum of (radius + 1) bits,
    so that sum is made distance + 1. A chunk longer than the key is cut, which only adds candidates. The bits are
    dealt at random, since neighbours in a pHash are frequencies that go together.
    """
    number = math.ceil((distance + 1) / (_RADIUS + 1))
    spare = number * (_RADIUS + 1) - (distance + 1)
    dealt = np.array_split(np.random.default_rng(0).permutation(BITS), number)
    return [
        HashChunk(bits[:_KEY_BITS], _RADIUS - spare // number - (place < spare % number))
        for place, bits in enumerate(dealt)
    ]


@dataclass(frozen=True)
class HashSample:
    """Some of the hashes, compared with all."""

    places: Indices
    near: Pairs
    """the pairs that they are in"""

    def in_crowds(self) -> NDArray[np.bool_]:
        """Return which of the places are in so many pairs that these can't all be listed."""
        ends = np.concatenate([self.near.first, self.near.second])
        counts = np.bincount(ends, minlength=self.places.max() + 1)[self.places]
        return counts >= _CROWD


def sample_hashes(hashes: Hashes, distance: int) -> HashSample:
    """Compare a few of the hashes, (n, 4), with all."""
    places = np.sort(np.random.default_rng(0).choice(len(hashes), min(_SAMPLE, len(hashes)), replace=False))
    found = []
    for place in places:
        apart = np.bitwise_count(hashes ^ hashes[place]).sum(axis=1, dtype=np.uint16)
        apart[places[places <= place]] = BITS + 1  # itself, and what was compared with it
        near = np.flatnonzero(apart <= distance)
        found.append(order_pairs(np.full(len(near), place), near, apart[near].astype(np.uint8)))
    return HashSample(places, join_pairs(found))


def expected_candidates(hashes: Hashes, chunks: list[HashChunk], sample: HashSample) -> float:
    """Estimate how many candidates the index would give."""
    places = sample.places
    if len(sample.near) / len(places) * len(hashes) / 2 > MOST_PAIRS:
        places = places[~sample.in_crowds()]  # the others will soon be linked with what they are near to
    found = 0
    for chunk in chunks:
        keys = chunk.keys(hashes)
        counts = np.bincount(keys, minlength=1 << len(chunk.bits))
        found += sum(int(counts[keys[places] ^ mask].sum()) for mask in chunk.masks())
    return found * len(hashes) / len(sample.places) / 2


def search_chunks(
    hashes: Hashes, distance: int, chunks: list[HashChunk], sample: HashSample, gathered: Gathered
) -> None:
    """Find the pairs of hashes, (n, 4), within a distance."""
    keys = [chunk.keys(hashes) for chunk in chunks]
    for number, chunk in enumerate(chunks):
        masks = chunk.masks()
        while masks:
            groups = gathered.groups
            table = _Table(keys[number], len(chunk.bits), groups)
            halves = np.ascontiguousarray(hashes[table.order, :2]), np.ascontiguousarray(hashes[table.order, 2:])
            while masks and gathered.groups is groups:
                mask = masks.pop()
                for left, right in table.neighbours(mask):
                    # Half of the bits rule out nearly all candidates, for half of the memory traffic.
                    distances = _distances(halves[0], left, right)
                    kept = np.flatnonzero(distances <= distance)
                    left, right = left[kept], right[kept]
                    distances = distances[kept] + _distances(halves[1], left, right)
                    kept = np.flatnonzero(distances <= distance)
                    first, second = table.order[left[kept]], table.order[right[kept]]
                    new = np.ones(len(kept), bool)
                    for earlier in range(number):
                        apart = np.bitwise_count(keys[earlier][first] ^ keys[earlier][second])
                        new &= apart > chunks[earlier].radius
                    gathered.add(order_pairs(first[new], second[new], distances[kept][new]))
                    if gathered.groups is not groups:
                        if groups is None:
                            gathered.link(sample.near)  # each of a crowd with all others, at one stroke
                        masks.append(mask)  # once more, without what is linked by now
                        break


class _Table:
    """The hashes by the key of one chunk, and among equal keys by their group."""

    def __init__(self, key: Keys, bits: int, groups: NDArray[np.int32] | None) -> None:
        codes = key if groups is None else key.astype(np.int64) * (int(groups.max()) + 1) + groups
        self.order = np.argsort(codes, kind="stable")
        self._key = key[self.order]
        self._starts = np.searchsorted(self._key, np.arange((1 << bits) + 1, dtype=np.int32)).astype(np.int32)
        self._codes = None if groups is None else codes[self.order]
        self._step = 0 if groups is None else int(groups.max()) + 1

    def neighbours(self, mask: int) -> Iterator[tuple[Indices, Indices]]:
        """Yield the places in ``order`` of all pairs whose keys differ by exactly ``mask``, each pair once.

        Some of those of one group are left out, and all where there are many.
        """
        if mask:
            left = np.flatnonzero(self._key & (1 << (mask.bit_length() - 1)) == 0)
            begin, end = self._starts[self._key[left] ^ mask], self._starts[(self._key[left] ^ mask) + 1]
        else:
            left = np.arange(len(self._key))
            begin, end = left + 1, self._starts[self._key + 1]
        if self._codes is not None:
            many = np.flatnonzero(end - begin >= _CROWD)
            there = self._key[left[many]].astype(np.int64)
            codes = self._codes[left[many]] + ((there ^ mask) - there) * self._step
            own = np.searchsorted(self._codes, codes, "left"), np.searchsorted(self._codes, codes, "right")
            left, begin = np.concatenate([left, left[many]]), np.concatenate([begin, np.maximum(begin[many], own[1])])
            end = np.concatenate([end, end[many]])
            end[many] = np.maximum(begin[many], own[0])
        some = end > begin
        yield from _unfolded(left[some], begin[some], (end - begin)[some])


def _unfolded(left: Indices, begin: Indices, counts: Indices) -> Iterator[tuple[Indices, Indices]]:
    """Yield each of ``left`` with the ``counts`` places from ``begin`` on, some at a time."""
    if not len(left):
        return
    totals = np.cumsum(counts)
    cuts = np.searchsorted(totals, np.arange(_CANDIDATES, totals[-1], _CANDIDATES))
    for part in np.split(np.arange(len(left)), cuts):
        ends = np.cumsum(counts[part])
        total = ends[-1] if len(part) else 0
        right = np.arange(total) + np.repeat(begin[part] - (ends - counts[part]), counts[part])
        yield np.repeat(left[part], counts[part]), right


def _distances(words: Hashes, left: Indices, right: Indices) -> NDArray[np.uint8]:
    differing: NDArray[np.uint8] = np.bitwise_count(words[left] ^ words[right])
    total: NDArray[np.uint8] = differing[:, 0] + differing[:, 1]
    return total
