"""Exact search for all pairs of 256-bit hashes within a Hamming distance.

Many hashes are searched by multi-index hashing; small sets, and sets in which most pairs would be candidates, by
comparison of all pairs (brute force).
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa

from overlay.duplicates.multi_index import Hashes, expected_candidates, hash_chunks, sample_hashes, search_chunks
from overlay.duplicates.pairs import PairCollector, Pairs, expand_to_all, join_pairs, select_pairs

WORDS = 4
_SMALL = 10_000
"""largest number of hashes that are compared by brute force without an estimate, which takes a quarter of a second"""
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


def near_pairs(hashes: Hashes, distance: int) -> Pairs:
    """Return all pairs of hashes, uint64 (n, 4), that differ in at most ``distance`` bits; each once, ascending."""
    distinct, kind = np.unique(hashes, axis=0, return_inverse=True)
    chunks = hash_chunks(distance)
    collector = PairCollector(len(distinct))
    sample = sample_hashes(distinct, distance) if len(distinct) > _SMALL else None
    if sample and expected_candidates(distinct, chunks, sample) * _DENSE < len(distinct) ** 2 / 2:
        search_chunks(distinct, distance, chunks, sample, collector)
    else:
        for part in compare_all(distinct, distance):
            collector.add(part)
    pairs = expand_to_all(collector.collect(), kind, len(distinct))
    return select_pairs(pairs, np.lexsort((pairs.second, pairs.first)))


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
