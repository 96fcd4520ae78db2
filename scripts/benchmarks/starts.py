"""Benchmark of starts: seconds from a command to its first training step or first predictions, as a bar of phases.

    python scripts/benchmarks/starts.py
    python scripts/benchmarks/starts.py --before ../checkout-of-an-earlier-commit --rounds 5

Phases are seen from outside, in the titles of the command's processes and in the files that it writes, so any commit
can be measured: with --before, the commands of both checkouts take turns. Prints the medians, and draws the round of
the median as docs/starts.svg.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import tempfile
import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from overlay.images.phantoms import write_phantoms
from scripts.benchmarks.record import ROOT, append_record, current_record
from scripts.fault_injection.processes import descendants, end

_FIGURE = ROOT / "docs" / "starts.svg"
_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Mark:
    """A moment of a command: its first process with a text in the command line, or its first file by a pattern."""

    phase: str
    """phase that ends there"""
    process: str = ""
    file: str = ""


@dataclass(frozen=True)
class TimedCommand:
    """A command whose start is measured; the last mark is its end."""

    words: Sequence[str]
    marks: Sequence[Mark]


TRAIN = (
    Mark("imports and checks", process="gcs_server"),
    Mark("Ray", process="ray::"),
    Mark("status board", process="ray::StatusBoard"),
    Mark("controller process", process="ray::TrainController"),
    Mark("worker process", process="ray::RayTrainWorker"),
    Mark("worker's imports", process="ray::execute"),
    Mark("first step", file="checkpoints/step-*"),
)
ON_RAY = (
    Mark("imports and checks", process="gcs_server"),
    Mark("Ray", process="ray::"),
    Mark("engine's process", process="ModelActor"),
    Mark("first rows", file="predictions/part-*.parquet"),
)
SMALL = (
    Mark("imports and checks", process="overlay.images.decoder_process"),
    Mark("engine and first rows", file="predictions/part-*.parquet"),
    Mark("metrics", file="_SUCCESS.json"),
)


def main() -> None:
    """Print a table of phases for each command, and draw it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="checkout of an earlier commit, with an environment in .venv")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=66, help="of each class")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--only", nargs="+", default=["train", "predict on Ray", "predict"])
    options = parser.parse_args()
    checkouts = {"after": ROOT} if options.before is None else {"before": options.before.resolve(), "after": ROOT}
    numbers: dict[str, float] = {}
    bars: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(prefix="overlay-starts-") as temporary:
        folder = Path(temporary)
        write_phantoms(folder / "images", images_per_class=options.images, seed=0)
        commands = {name: _make_commands(folder, name, place, options.size) for name, place in checkouts.items()}
        for name in options.only:
            rounds: dict[str, list[dict[str, float]]] = {checkout: [] for checkout in checkouts}
            for _ in range(options.rounds):
                for checkout, place in checkouts.items():
                    rounds[checkout].append(_measure(commands[checkout][name], folder / "out", place))
            for checkout, measured in rounds.items():
                median = sorted(measured, key=lambda phases: sum(phases.values()))[len(measured) // 2]
                bars[f"{name}, {checkout}"] = median
                seconds = statistics.median(sum(phases.values()) for phases in measured)
                numbers[f"{name.replace(' ', '_')}_{checkout}_seconds"] = seconds
                parts = ", ".join(f"{phase} {each:.1f}" for phase, each in median.items())
                print(f"{name}, {checkout}: {seconds:.1f} s ({parts})", flush=True)
    _draw(bars, _FIGURE)
    append_record("starts", current_record(numbers))


def phases_between(marks: Sequence[tuple[str, float]]) -> dict[str, float]:
    """Return the seconds of each phase, from the moments (phase that ends there, seconds since the start) seen.

    Moments count in the order of time, so phases that overlap share no second.
    """
    phases: dict[str, float] = {}
    last = 0.0
    for phase, moment in sorted(marks, key=lambda mark: mark[1]):
        phases[phase], last = moment - last, moment
    return phases


def _make_commands(folder: Path, checkout: str, place: Path, size: int) -> Mapping[str, TimedCommand]:
    """Make a dataset and a model by a checkout, whose files another may refuse; return the commands without --out."""
    dataset, run = folder / f"dataset-{checkout}", folder / f"run-{checkout}"
    network = ["--model.weights", "none", "--input.size", str(size), "--tracking.mode", "disabled"]
    train = ["train", str(dataset), *network, "--train.batch_size", "16", "--train.precision", "fp32"]
    predict = ["predict", str(run), str(folder / "images"), "--part_rows", "32"]
    for words in (
        ["prepare", str(folder / "images"), "--out", str(dataset)],
        [*train, "--train.epochs", "1", "--out", str(run)],
    ):
        with _start(words, place) as process:
            if process.wait():
                raise RuntimeError(f"status {process.returncode} in {place}: {' '.join(words)}")
    return {
        "train": TimedCommand([*train, "--train.epochs", "1", "--train.checkpoint_steps", "1"], TRAIN),
        "predict on Ray": TimedCommand([*predict, "--actors", "1"], ON_RAY),
        "predict": TimedCommand(predict, SMALL),
    }


def _start(words: Sequence[str], checkout: Path) -> subprocess.Popen[bytes]:
    """Start a command of a checkout, in its folder, which comes first in Python's path."""
    return subprocess.Popen(
        [str(checkout / ".venv" / "bin" / "python"), "-m", "overlay", *words],
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": str(checkout)},
        cwd=checkout,
    )


def _measure(command: TimedCommand, out: Path, checkout: Path) -> dict[str, float]:
    """Run a command of a checkout until its last mark, end it, and return the seconds of each phase."""
    shutil.rmtree(out, ignore_errors=True)
    began = time.monotonic()
    with _start([*command.words, "--out", str(out)], checkout) as process:
        seen = dict[str, float]()
        while command.marks[-1].phase not in seen:
            if process.poll() not in (None, 0):
                raise RuntimeError(f"status {process.returncode} in {checkout}: {' '.join(command.words)}")
            for mark in _reached(command.marks, seen, process, out):
                seen[mark.phase] = time.monotonic() - began
            time.sleep(_POLL_SECONDS)
        process.terminate()
    end(process)
    return phases_between(list(seen.items()))


def _reached(
    marks: Sequence[Mark], seen: Mapping[str, float], process: subprocess.Popen[bytes], out: Path
) -> Iterator[Mark]:
    """Yield the marks that are reached now and were not seen before."""
    lines = set[str]()

    def collect(line: str, _name: str) -> bool:
        lines.add(line)
        return False

    descendants(process, collect)
    for mark in marks:
        there = any(mark.process in line for line in lines) if mark.process else any(out.rglob(mark.file))
        if there and mark.phase not in seen:
            yield mark


def _draw(bars: Mapping[str, Mapping[str, float]], file: Path) -> None:
    """Draw a horizontal bar of phases for each command."""
    figure = Figure(figsize=(10, 0.9 + 0.75 * len(bars)), layout="constrained")
    axes = figure.subplots()
    longest = max(sum(phases.values()) for phases in bars.values())
    for row, phases in enumerate(bars.values()):
        left = 0.0
        for number, (phase, seconds) in enumerate(phases.items()):
            axes.barh(row, seconds, left=left, color=f"C{number}", height=0.8)
            if seconds > 0.045 * longest:
                width = int(110 * seconds / longest)
                label = textwrap.fill(f"{phase} {seconds:.1f}", width, break_long_words=False)
                axes.text(left + seconds / 2, row, label, ha="center", va="center", fontsize=7, linespacing=1)
            left += seconds
        axes.text(left, row, f" {left:.1f} s", va="center", fontsize=9)
    axes.set_yticks(range(len(bars)), list(bars))
    axes.invert_yaxis()
    axes.set_xlabel("seconds since the command")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file)


if __name__ == "__main__":
    main()
