"""Benchmark of a prediction's memory and CPU time per image over a long run (memory leaks).

    uv run python scripts/benchmarks/memory.py

Small PNGs, a small network, `overlay predict` on Ray as a process of its own. Each second its processes are sampled:
unique set size (USS) of each, and CPU time of all. Both are printed for each tenth of the images, as the parts of the
output appear; the first tenth includes the start-up.
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

from scripts.benchmarks.record import append_record, current_record
from scripts.fault_injection.predict import write_noise_images, write_random_model

_TENTHS = 10


@dataclass
class _Tree:
    """Process with its descendants."""

    root: psutil.Process
    seconds: dict[int, float] = field(default_factory=dict)
    """process id -> CPU seconds, including ended processes"""

    def sample(self) -> dict[str, float]:
        """Return the unique set size, in MiB, of the driver, the largest worker and Ray's own processes."""
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
    """Predict, sample the processes, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="overlay-memory-") as temporary:
        folder = Path(temporary)
        write_noise_images(folder / "images", options.images, seed=0)
        write_random_model(folder / "model.pth")
        words = ["predict", str(folder / "model.pth"), str(folder / "images"), "--out", str(folder / "out")]
        words += ["--part_rows", str(options.images // _TENTHS), "--actors", "1", "--precision", "fp32"]
        job = subprocess.Popen(
            [sys.executable, "-m", "overlay", *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        _watch(job, folder / "out" / "predictions", options.images // _TENTHS)
        assert job.wait() == 0


def _watch(job: "subprocess.Popen[bytes]", output: Path, part_rows: int) -> None:
    """Print a row for each part of the output that appears."""
    tree = _Tree(psutil.Process(job.pid))
    peaks: dict[str, float] = defaultdict(float)
    parts, began, spent = 0, time.monotonic(), 0.0
    numbers: dict[str, float] = {}
    print("| images | driver, MiB | largest worker, MiB | Ray's own, MiB | ms of a core an image | images/s |")
    print("| --- | --- | --- | --- | --- | --- |")
    while job.poll() is None:
        for name, mebibytes in tree.sample().items():
            peaks[name] = max(peaks[name], mebibytes)
        there = len(list(output.glob("part-*.parquet")))
        if there > parts:
            now, seconds = time.monotonic(), sum(tree.seconds.values())
            images = (there - parts) * part_rows
            memory = " | ".join(f"{peaks[name]:.0f}" for name in ("driver", "largest worker", "Ray's own processes"))
            cost, rate = 1000 * (seconds - spent) / images, images / (now - began)
            print(f"| {there * part_rows} | {memory} | {cost:.2f} | {rate:.0f} |", flush=True)
            numbers = {f"{name}, peak MiB": peak for name, peak in peaks.items()}
            numbers |= {"images": float(there * part_rows), "ms of a core an image": cost, "images/s": rate}
            parts, began, spent = there, now, seconds
            peaks.clear()
        time.sleep(1)
    append_record("memory", current_record(numbers))  # of the last tenth


if __name__ == "__main__":
    main()
