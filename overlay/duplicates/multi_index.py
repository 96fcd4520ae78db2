"""Multi-index hashing: exact search for pairs of hashes within a Hamming distance.

Norouzi, Punjani, Fleet, "Fast exact search in Hamming space with multi-index hashing", 2014, arXiv:1307.2982: the bits
are divided into m chunks, and two hashes within the distance are within a small radius of each other in at least one
chunk. So an index by the chunk's value, queried for every value within the radius, has all pairs among its candidates.

Thousands of frames of one video are all near each other, and have more pairs than anybody reads. Once only links
between groups are searched (see `PairCollector`), pairs within one group are skipped before they become candidates.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from overlay.duplicates.pairs import MOST_PAIRS, Indices, PairCollector, Pairs, join_pairs, order_pairs

Hashes = NDArray[np.uint64]
Keys = NDArray[np.int32]

BITS = 256
_RADIUS = 2
_KEY_BITS = 20
_CANDIDATES = 500_000
"""candidates in memory at one time"""
_CROWD = 16
"""number of candidates of one hash from which it pays to skip those of its own group"""
_SAMPLE = 200
"""hashes that are compared with all others to estimate the number of candidates"""


@dataclass(frozen=True)
class HashChunk:
    """Chunk of the bits, and the largest distance in it at which two hashes are candidates."""

    bits: NDArray[np.int64]
    radius: int

    def keys(self, hashes: Hashes) -> Keys:
        """Return the value of the chunk in each hash of (n, 4), int32 (n,)."""
        keys = np.zeros(len(hashes), np.int32)
        for place, bit in enumerate(self.bits):
            value = (hashes[:, bit // 64] >> np.uint64(bit % 64)) & np.uint64(1)
            keys |= value.astype(np.int32) << np.int32(place)
        return keys

    @property
    def words(self) -> NDArray[np.uint64]:
        """The bits of the chunk set in 256, uint64 (4,)."""
        words = np.zeros(BITS // 64, np.uint64)
        for bit in self.bits:
            words[bit // 64] |= np.uint64(1 << int(bit % 64))
        return words

    def masks(self) -> list[int]:
        """Return all XOR differences of two chunk values within the radius."""
        places = range(len(self.bits))
        return [sum(1 << place for place in flips) for n in range(self.radius + 1) for flips in combinations(places, n)]


def hash_chunks(distance: int) -> list[HashChunk]:
    """Divide the 256 bits into chunks for a search within ``distance`` bits.

    Two hashes that are further apart than the radius in every chunk differ in at least the sum of (radius + 1) bits,
    so that sum is distance + 1 (pigeonhole principle). A chunk longer than the key is truncated, which only adds
    candidates. The bits are permuted at random, since neighbouring bits of a pHash are correlated frequencies.
    """
    number = math.ceil((distance + 1) / (_RADIUS + 1))
    spare = number * (_RADIUS + 1) - (distance + 1)
    bits_of_chunks = np.array_split(np.random.default_rng(0).permutation(BITS), number)
    return [
        HashChunk(bits[:_KEY_BITS], _RADIUS - spare // number - (place < spare % number))
        for place, bits in enumerate(bits_of_chunks)
    ]


@dataclass(frozen=True)
class HashSample:
    """Random sample of the hashes, compared with all."""

    places: Indices
    """ascending indices of the sampled hashes"""
    near: Pairs
    """pairs of which one hash is in the sample"""

    def in_dense_groups(self) -> NDArray[np.bool_]:
        """Return for each sampled hash whether it is in at least ``_CROWD`` pairs, bool (samples,)."""
        ends = np.concatenate([self.near.first, self.near.second])
        counts = np.bincount(ends, minlength=self.places.max() + 1)[self.places]
        return counts >= _CROWD


def sample_hashes(hashes: Hashes, distance: int) -> HashSample:
    """Compare 200 random hashes of (n, 4) with all, within ``distance`` bits."""
    places = np.sort(np.random.default_rng(0).choice(len(hashes), min(_SAMPLE, len(hashes)), replace=False))
    found = []
    for place in places:
        apart = np.bitwise_count(hashes ^ hashes[place]).sum(axis=1, dtype=np.uint16)
        apart[places[places <= place]] = BITS + 1  # itself, and samples that were compared with it
        near = np.flatnonzero(apart <= distance)
        found.append(order_pairs(np.full(len(near), place), near, apart[near].astype(np.uint8)))
    return HashSample(places, join_pairs(found))


def expected_candidates(hashes: Hashes, chunks: list[HashChunk], sample: HashSample) -> float:
    """Estimate from a sample how many candidates the index gives for hashes, (n, 4)."""
    places = sample.places
    if len(sample.near) / len(places) * len(hashes) / 2 > MOST_PAIRS:
        places = places[~sample.in_dense_groups()]  # pairs within the groups of the others will soon be skipped
    found = 0
    for chunk in chunks:
        keys = chunk.keys(hashes)
        counts = np.bincount(keys, minlength=1 << len(chunk.bits))
        found += sum(int(counts[keys[places] ^ mask].sum()) for mask in chunk.masks())
    return found * len(hashes) / len(sample.places) / 2


@dataclass(frozen=True)
class IndexPart:
    """Part of a search by the index: some of the queries of one chunk."""

    chunk: int
    share: int
    """in ``[0, shares)``"""
    shares: int


def search_chunk(hashes: Hashes, distance: int, part: IndexPart, sample: HashSample, collector: PairCollector) -> None:
    """Add the pairs of distinct hashes, (n, 4), within a distance in bits, that one part of the index finds.

    Pairs that an earlier chunk finds are left out, so that each pair is found by one part.
    """
    chunks = hash_chunks(distance)
    chunk = chunks[part.chunk]
    earlier = [(each.words, each.radius) for each in chunks[: part.chunk]]
    key, masks = chunk.keys(hashes), chunk.masks()[part.share :: part.shares]
    while masks:
        groups = collector.groups
        table = _ChunkTable(key, len(chunk.bits), groups)
        halves = np.ascontiguousarray(hashes[table.order, :2]), np.ascontiguousarray(hashes[table.order, 2:])
        while masks and collector.groups is groups:
            mask = masks.pop()
            for left, right in table.neighbours(mask):
                # Half of the bits rule out nearly all candidates, for half of the memory traffic.
                distances = _distances(halves[0], left, right)
                kept = np.flatnonzero(distances <= distance)
                left, right = left[kept], right[kept]
                distances = distances[kept] + _distances(halves[1], left, right)
                kept = np.flatnonzero(distances <= distance)
                first, second = table.order[left[kept]], table.order[right[kept]]
                new = _missed_by(earlier, hashes[first] ^ hashes[second])
                collector.add(order_pairs(first[new], second[new], distances[kept][new]))
                if collector.groups is not groups:
                    if groups is None:
                        collector.add_links(sample.near)  # links whole dense groups at once
                    masks.append(mask)  # search again, without pairs of one group
                    break


def _missed_by(chunks: Sequence[tuple[NDArray[np.uint64], int]], differing: Hashes) -> NDArray[np.bool_]:
    """Return for each pair, by its differing bits (pairs, 4), whether no chunk has it among its candidates.

    ``chunks``: the bits of each chunk set in 256, and its radius.
    """
    missed = np.ones(len(differing), bool)
    for words, radius in chunks if len(differing) else ():
        missed &= np.bitwise_count(differing & words).sum(axis=1, dtype=np.uint16) > radius
    return missed


class _ChunkTable:
    """Index of the hashes, sorted by the key of one chunk and, among equal keys, by group."""

    def __init__(self, key: Keys, bits: int, groups: NDArray[np.int32] | None) -> None:
        codes = key if groups is None else key.astype(np.int64) * (int(groups.max()) + 1) + groups
        self.order = np.argsort(codes, kind="stable")
        self._key = key[self.order]
        self._starts = np.searchsorted(self._key, np.arange((1 << bits) + 1, dtype=np.int32)).astype(np.int32)
        self._codes = None if groups is None else codes[self.order]
        self._step = 0 if groups is None else int(groups.max()) + 1

    def neighbours(self, mask: int) -> Iterator[tuple[Indices, Indices]]:
        """Yield the positions in ``order`` of all pairs whose keys differ by exactly ``mask``, each pair once.

        Some pairs of one group are skipped; of hashes with at least ``_CROWD`` candidates, all are.
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
        yield from _expand_ranges(left[some], begin[some], (end - begin)[some])


def _expand_ranges(left: Indices, begin: Indices, counts: Indices) -> Iterator[tuple[Indices, Indices]]:
    """Yield each of ``left`` with its range of ``counts`` positions from ``begin``, in batches."""
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
