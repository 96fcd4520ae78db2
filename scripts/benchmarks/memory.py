"""Whether a prediction's memory and the cost of an image stay what they are: ``uv run python
scripts/benchmarks/memory.py``.

Small PNGs, a small network, `overlay predict` on Ray as a process of its own. Every second its processes are looked at:
the memory that each has for itself, and the processor time of all. Prints both for each tenth of the images, as the
output's parts appear, from the second on: the first holds the start.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from scripts.fault_injection.predict import _make_images, _make_model

_TENTHS = 10


@dataclass
class _Tree:
    """A process and all that it started."""

    root: psutil.Process
    seconds: dict[int, float] = field(default_factory=dict)
    """processor time of each process, also of those that are gone"""

    def look(self) -> dict[str, float]:
        """Return the memory of its own, in MiB, of the driver, of the largest worker and of Ray's own processes."""
        memory: dict[str, float] = defaultdict(float)
        for process in [self.root, *self.root.children(recursive=True)]:
            try:
                title, times = " ".join(process.cmdline()), process.cpu_times()
                mine = process.memory_full_info().uss / 2**20
            except psutil.Error:
                continue
            self.seconds[process.pid] = times.user + times.system
            if process == self.root:
                memory["driver"] = mine
            elif title.startswith("ray::"):
                memory["largest worker"] = max(memory["largest worker"], mine)
            else:
                memory["Ray's own processes"] += mine
        return memory


def main() -> None:
    """Predict, look, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="overlay-memory-") as temporary:
        folder = Path(temporary)
        _make_images(folder / "images", options.images, seed=0)
        _make_model(folder / "model.pth")
        words = ["predict", str(folder / "model.pth"), str(folder / "images"), "--out", str(folder / "out")]
        words += ["--part_rows", str(options.images // _TENTHS), "--actors", "1", "--precision", "fp32"]
        job = subprocess.Popen(
            [sys.executable, "-m", "overlay", *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        _watch(job, folder / "out" / "predictions", options.images // _TENTHS)
        assert job.wait() == 0


def _watch(job: "subprocess.Popen[bytes]", output: Path, part_rows: int) -> None:
    """Print a row for each part that appears."""
    tree = _Tree(psutil.Process(job.pid))
    peaks: dict[str, float] = defaultdict(float)
    parts, began, spent = 0, time.monotonic(), 0.0
    print("| images | driver, MiB | largest worker, MiB | Ray's own, MiB | ms of a core an image | images/s |")
    print("| --- | --- | --- | --- | --- | --- |")
    while job.poll() is None:
        for name, mebibytes in tree.look().items():
            peaks[name] = max(peaks[name], mebibytes)
        there = len(list(output.glob("part-*.parquet")))
        if there > parts:
            now, seconds = time.monotonic(), sum(tree.seconds.values())
            images = (there - parts) * part_rows
            memory = " | ".join(f"{peaks[name]:.0f}" for name in ("driver", "largest worker", "Ray's own processes"))
            cost, rate = 1000 * (seconds - spent) / images, images / (now - began)
            print(f"| {there * part_rows} | {memory} | {cost:.2f} | {rate:.0f} |", flush=True)
            parts, began, spent = there, now, seconds
            peaks.clear()
        time.sleep(1)


if __name__ == "__main__":
    main()
