"""Exact search for all pairs of 256-bit hashes within a Hamming distance.

Many hashes are searched by multi-index hashing; small sets, and sets in which most pairs would be candidates, by
comparison of all pairs (brute force). A search by the index has parts, which processes can search at one time: see
`plan_search`, `search_part` and `join_parts`.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from overlay.duplicates.multi_index import (
    Hashes,
    HashSample,
    IndexPart,
    expected_candidates,
    hash_chunks,
    sample_hashes,
    search_chunk,
)
from overlay.duplicates.pairs import (
    Indices,
    PairCollector,
    Pairs,
    expand_to_all,
    join_pairs,
    merge_pairs,
    select_pairs,
)

WORDS = 4
SMALL_SEARCH = 10_000
"""largest number of hashes that are compared by brute force without an estimate, which takes a quarter of a second"""
_PART_HASHES, _MOST_SHARES = 1_000_000, 16
"""hashes from which a chunk's queries are divided into two parts, from twice as many into three, and most of these"""
_DENSE = 8
"""cost of one candidate, in comparisons of contiguous hashes"""


def parse_hashes(digests: pa.ChunkedArray) -> Hashes:
    """Return a column of hashes, 32 bytes each, as 64-bit words, uint64 (n, 4)."""
    words = [np.empty((0, WORDS), np.uint64)]
    for chunk in digests.cast(pa.binary(8 * WORDS)).chunks:
        assert chunk.null_count == 0  # each image has a hash
        whole = np.frombuffer(chunk.buffers()[1], ">u8").reshape(-1, WORDS)
        words.append(whole[chunk.offset : chunk.offset + len(chunk)].astype(np.uint64))
    return np.concatenate(words)


@dataclass(frozen=True)
class SearchPlan:
    """Search for all near pairs of some hashes, in parts."""

    distinct: Hashes
    """(kinds, 4) the distinct hashes, sorted"""
    kind: Indices
    """(n,) index of the distinct hash of each hash"""
    distance: int
    """bits"""
    sample: HashSample | None
    """sample of the distinct hashes for the index; None: all are compared with all"""
    shares: int = 1
    """parts of each chunk's queries"""

    @property
    def parts(self) -> int:
        """Number of parts."""
        return 1 if self.sample is None else self.shares * len(hash_chunks(self.distance))


def plan_search(hashes: Hashes, distance: int) -> SearchPlan:
    """Plan the search for all pairs of hashes, uint64 (n, 4), that differ in at most ``distance`` bits."""
    distinct, kind = np.unique(hashes, axis=0, return_inverse=True)
    sample = sample_hashes(distinct, distance) if len(distinct) > SMALL_SEARCH else None
    if sample and expected_candidates(distinct, hash_chunks(distance), sample) * _DENSE >= len(distinct) ** 2 / 2:
        sample = None
    return SearchPlan(distinct, kind, distance, sample, min(_MOST_SHARES, 1 + len(distinct) // _PART_HASHES))


def search_part(plan: SearchPlan, part: int, known: Pairs | None = None) -> Pairs:
    """Return the pairs of distinct hashes that one part finds, and no other part.

    ``known``: pairs of the first part. Where these are a spanning forest, since there are so many, other parts need not
    find pairs of one group again. Where a part's pairs are not complete, they contain those that were known.
    """
    collector = PairCollector(len(plan.distinct), known)
    if plan.sample is None:
        for pairs in compare_all(plan.distinct, plan.distance):
            collector.add(pairs)
    else:
        chunk, share = divmod(part, plan.shares)
        search_chunk(plan.distinct, plan.distance, IndexPart(chunk, share, plan.shares), plan.sample, collector)
    return collector.collect()


def join_parts(plan: SearchPlan, parts: Sequence[Pairs]) -> Pairs:
    """Return all near pairs of the hashes from those of all parts; each once, ascending."""
    pairs = expand_to_all(merge_pairs(parts, len(plan.distinct)), plan.kind, len(plan.distinct))
    return select_pairs(pairs, np.lexsort((pairs.second, pairs.first)))


def near_pairs(hashes: Hashes, distance: int) -> Pairs:
    """Return all pairs of hashes, uint64 (n, 4), that differ in at most ``distance`` bits; each once, ascending."""
    plan = plan_search(hashes, distance)
    first = search_part(plan, 0)
    return join_parts(plan, [first, *(search_part(plan, part, first) for part in range(1, plan.parts))])


def compare_all(hashes: Hashes, distance: int) -> Iterator[Pairs]:
    """Yield the pairs of hashes, uint64 (n, 4), within a distance in bits, by comparison of all pairs."""
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
        return join_pairs(found)

    # NumPy releases the GIL while it counts bits.
    with ThreadPoolExecutor() as pool:
        for top in range(0, len(hashes), 64 * rows):  # bounds the results that wait for the consumer
            yield from pool.map(compare, range(top, min(top + 64 * rows, len(hashes)), rows))
