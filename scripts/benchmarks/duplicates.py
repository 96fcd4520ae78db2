"""Benchmark of the near-duplicate search: seconds and memory for many hashes, beside brute force.

    python scripts/benchmarks/duplicates.py
    python scripts/benchmarks/duplicates.py --hashes 1000000

Four sets: unrelated hashes with planted copies; the same with a tenth of them one black frame; the same with 3,000, and
with a tenth, frames of one video, all near-duplicates of each other. Brute force is timed on a sample, whose pairs must
be equal, and scaled by the number of pairs. CPU seconds are printed too, since a busy machine changes them less.
"""

import argparse
import resource
import time

import numpy as np

from overlay.duplicates.hamming import compare_all, near_pairs
from overlay.duplicates.multi_index import BITS, Hashes
from overlay.duplicates.pairs import connected_components
from scripts.benchmarks.record import append_record, current_record

_DISTANCE = 40


def main() -> None:
    """Print one line for each set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hashes", type=int, default=200_000)
    parser.add_argument("--sample", type=int, default=20_000)
    arguments = parser.parse_args()
    random = np.random.default_rng(0)
    unrelated = random.integers(0, 2**64, (arguments.hashes, BITS // 64), dtype=np.uint64)
    tenth = arguments.hashes // 10
    unrelated[-tenth:] = _near(unrelated[:tenth], random)
    black = unrelated.copy()
    black[:tenth] = 0
    sets = {"unrelated": unrelated, "a tenth is black": black}
    for frames in (3000, tenth):
        video = unrelated.copy()
        video[:frames] = _near(np.repeat(unrelated[:1], frames, axis=0), random)
        sets[f"{frames:,} frames of a video"] = video

    sample = unrelated[-arguments.sample :]
    start = time.perf_counter()
    expected = sum(map(len, compare_all(sample, _DISTANCE)))
    all_with_all = (time.perf_counter() - start) * (arguments.hashes / arguments.sample) ** 2
    assert len(near_pairs(sample, _DISTANCE)) == expected
    print(
        f"{arguments.hashes:,} hashes within {_DISTANCE} of {BITS} bits; all with all would take {all_with_all:.1f} s"
    )
    numbers: dict[str, float] = {}
    for name, hashes in sets.items():
        start, cpu = time.perf_counter(), time.process_time()
        pairs = near_pairs(hashes, _DISTANCE)
        groups = len(set(connected_components([(pairs.first, pairs.second)], len(hashes)).tolist()))
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        listed = f"{len(pairs):,} pairs{'' if pairs.complete else ' that link them'}"
        print(
            f"{name}: {seconds:.1f} s ({cpu:.1f} s of CPU), {all_with_all / seconds:.1f} times as fast; {groups:,} "
            f"groups, {listed}; peak memory so far {peak:.0f} MiB"
        )
        numbers |= {f"{name}, s": seconds, f"{name}, pairs": float(len(pairs)), f"{name}, peak MiB": peak}
    append_record("duplicates", current_record(numbers))


def _near(hashes: Hashes, random: np.random.Generator) -> Hashes:
    """Return the hashes, (n, 4), with about 12 bits of each flipped."""
    flips = np.packbits(random.random((len(hashes), BITS)) < 12 / BITS, axis=1).view(np.uint64)
    return hashes ^ flips


if __name__ == "__main__":
    main()
