"""Benchmark of listing inputs: seconds and memory to write the manifest of a tree of empty files.

    python scripts/benchmarks/listing.py --files 1000000

Creates the tree in a temporary folder, 1,000 files in each folder, and deletes it afterwards.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from scripts.benchmarks.record import append_record, current_record


def main() -> None:
    """Create the files, list them in a new process, and print time and memory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=1_000_000)
    parser.add_argument("--masks", action="store_true", help="every second file is the mask of the one before")
    parser.add_argument("--list", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.list:
        _list_inputs(Path(options.list))
        return
    with tempfile.TemporaryDirectory(prefix="overlay-listing-") as folder:
        for number in range(options.files):
            where = Path(folder, "images", f"{number // 1_000_000:03d}", f"{number // 1000 % 1000:03d}")
            if number % 1000 == 0:
                where.mkdir(parents=True)
            name = f"{number // 2:09d}{'_mask' * (number % 2)}.png" if options.masks else f"{number:09d}.png"
            (where / name).touch()
        subprocess.run([sys.executable, __file__, "--list", folder], check=True)


def _list_inputs(folder: Path) -> None:
    """List the files, and print time and memory."""
    from overlay.config import Limits
    from overlay.sources.manifest import write_manifest
    from overlay.sources.resolve import resolve_inputs

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    (folder / "manifest").mkdir()
    began, processor = time.perf_counter(), time.process_time()
    portions = resolve_inputs([str(folder / "images")], ["benign", "malignant", "normal"], Limits())
    listing = write_manifest(portions, folder / "manifest", 10_000, lambda _: None)
    seconds, processor = time.perf_counter() - began, time.process_time() - processor
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    size = sum(file.stat().st_size for file in (folder / "manifest").iterdir()) / 2**20
    print(
        f"{listing.manifest.rows} images in {seconds:.1f} s ({processor:.1f} s of the processor), peak {peak:.0f} MiB "
        f"({before:.0f} MiB before), manifest {size:.0f} MiB in {listing.manifest.parts} files"
    )
    numbers = {"images": float(listing.manifest.rows), "s": seconds, "s of CPU": processor, "peak MiB": peak}
    append_record("listing", current_record(numbers))


if __name__ == "__main__":
    main()
