"""Fault injection for `overlay train`: a stop in the middle of a slow step of two workers, and what was saved.

    python scripts/fault_injection/slow_step.py --arch resnet101 --batch_size 80 --size 224 --stops 3
    python scripts/fault_injection/slow_step.py --arch resnet18 --batch_size 64 --size 160 --stops 1

Each stop is a SIGTERM to the driver, as `ray job stop` and Kubernetes send it, at a random moment of a step; no
checkpoint is due by itself. Prints the seconds of a step, the seconds from the signal to the end (the shipped clusters
give 150), the steps that were finished, the step that was saved, and the step at which the same command resumes. Exits
with status 1 where a finished step was not saved, or the status is not 143.
"""

import argparse
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from overlay.dataset.prepared import open_dataset
from overlay.images import phantoms
from overlay.storage.path import StoragePath
from overlay.training import checkpoint
from overlay.training.sampler import SamplePlan
from scripts.fault_injection.processes import end, kill_group

_START_SECONDS = 900
_FINISHED = re.compile(r"^(?:\S+Z )?training: (\d+) of \d+ images in ([\d.]+) s", re.MULTILINE)
_RESUMED = re.compile(r"at step (\d+) of")


def main() -> int:
    """Train, stop and resume as often as asked for, in one run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="resnet101")
    parser.add_argument("--batch_size", type=int, default=80)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--stops", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance, wrong = random.Random(options.seed), 0
    with tempfile.TemporaryDirectory(prefix="overlay-slow-") as temporary:
        folder = Path(temporary)
        phantoms.write_phantoms(folder / "images", images_per_class=2 * options.batch_size, seed=0)
        prepare = [sys.executable, "-m", "overlay", "prepare", str(folder / "images"), "--out", str(folder / "dataset")]
        subprocess.run(prepare, check=True, stdout=subprocess.DEVNULL)
        before = 0
        for _ in range(options.stops):
            before, right = _stop_once(folder, options, chance, before)
            wrong += not right
    print(f"{wrong} wrong")
    return int(wrong > 0)


def _stop_once(folder: Path, options: argparse.Namespace, chance: random.Random, before: int) -> tuple[int, bool]:
    """Train until some steps are done, and stop; return the step that was saved, and whether it was right."""
    log = folder / "log"
    process = _start(folder, options, log)
    deadline = time.monotonic() + _START_SECONDS
    while _FINISHED.search(log.read_text()) is None:  # a line every 30 s, once a step is done
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"the training did not begin: {log.read_text()[-2000:]}")
        time.sleep(0.2)
    each = _images_per_step(folder, options.batch_size)
    images, spent = (float(number) for number in _FINISHED.findall(log.read_text())[-1])
    step_seconds = spent * each / max(images, 1)
    time.sleep(chance.uniform(0, step_seconds))
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    status = process.wait()
    seconds = time.monotonic() - began
    end(process)
    finished = before + round(int(_FINISHED.findall(log.read_text())[-1][0]) / each)
    saved = checkpoint.checkpoint_step(checkpoint.newest_checkpoint(StoragePath.of(folder / "run" / "checkpoints")))
    resumed = _resumed_step(folder, options)
    right = status == 143 and saved >= finished and resumed == saved
    print(
        f"a step takes {step_seconds:.1f} s; stopped within {seconds:.1f} s with status {status}; {finished} steps "
        f"finished, step {saved} saved, resumed at step {resumed}{'' if right else '   <- WRONG'}",
        flush=True,
    )
    return saved, right


def _images_per_step(folder: Path, batch_size: int) -> float:
    """Return the images of a step, as the training counts them: an epoch's, divided by its steps."""
    counts = open_dataset(str(folder / "dataset")).card.counts.values()
    samples = sum(splits["train"] for splits in counts)
    return samples / SamplePlan(samples, batch_size, epochs=1, seed=0).steps_per_epoch


def _resumed_step(folder: Path, options: argparse.Namespace) -> int:
    """Start the same command, and return the step at which it resumes; its processes are killed then."""
    log = folder / "log"
    process = _start(folder, options, log)
    while (found := _RESUMED.search(log.read_text())) is None and process.poll() is None:
        time.sleep(0.2)
    kill_group(process)
    end(process)
    return int(found[1]) if found else -1


def _start(folder: Path, options: argparse.Namespace, log: Path) -> "subprocess.Popen[bytes]":
    """Start the training in a process group of its own."""
    words = ["train", str(folder / "dataset"), "--out", str(folder / "run"), "--model.arch", options.arch]
    words += ["--model.weights", "none", "--input.size", str(options.size), "--train.workers", "2"]
    words += ["--train.batch_size", str(options.batch_size), "--train.checkpoint_steps", "1000000"]
    words += ["--train.epochs", "1000", "--early_stopping.patience", "1000", "--train.precision", "fp32"]
    with log.open("wb") as file:
        command = [sys.executable, "-m", "overlay", *words]
        return subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)


if __name__ == "__main__":
    sys.exit(main())
