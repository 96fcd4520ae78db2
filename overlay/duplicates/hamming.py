"""All pairs of 256-bit hashes within a Hamming distance, exactly, without comparing all with all.

Many hashes are searched by an index of parts of their bits; small sets, and sets in which most pairs would be
candidates, are compared outright.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa

from overlay.duplicates.multi_index import Hashes, expected_candidates, hash_chunks, sample_hashes, search_chunks
from overlay.duplicates.pairs import Gathered, Pairs, expand_to_all, join_pairs, select_pairs

WORDS = 4
_SMALL = 10_000
"""hashes up to which all are compared with all, which takes a quarter of a second"""
_DENSE = 8
"""a candidate costs as much as this many comparisons of contiguous hashes"""


def parse_hashes(digests: pa.ChunkedArray) -> Hashes:
    """Return hashes, a column of 32 bytes each, as 64-bit words, (n, 4)."""
    words = [np.empty((0, WORDS), np.uint64)]
    for chunk in digests.cast(pa.binary(8 * WORDS)).chunks:
        assert chunk.null_count == 0  # each image has a hash
        whole = np.frombuffer(chunk.buffers()[1], ">u8").reshape(-1, WORDS)
        words.append(whole[chunk.offset : chunk.offset + len(chunk)].astype(np.uint64))
    return np.concatenate(words)


def near_pairs(hashes: Hashes, distance: int) -> Pairs:
    """Return all pairs of hashes, (n, 4), that differ in at most ``distance`` bits; each once, in ascending order."""
    distinct, kind = np.unique(hashes, axis=0, return_inverse=True)
    dealt = hash_chunks(distance)
    gathered = Gathered(len(distinct))
    sample = sample_hashes(distinct, distance) if len(distinct) > _SMALL else None
    if sample and expected_candidates(distinct, dealt, sample) * _DENSE < len(distinct) ** 2 / 2:
        search_chunks(distinct, distance, dealt, sample, gathered)
    else:
        for part in compare_all(distinct, distance):
            gathered.add(part)
    pairs = expand_to_all(gathered.pairs(), kind, len(distinct))
    return select_pairs(pairs, np.lexsort((pairs.second, pairs.first)))


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
        return join_pairs(found)

    # NumPy lets go of the interpreter's lock while it counts.
    with ThreadPoolExecutor() as pool:
        for top in range(0, len(hashes), 64 * rows):  # so that little waits for whoever takes the pairs
            yield from pool.map(compare, range(top, min(top + 64 * rows, len(hashes)), rows))
