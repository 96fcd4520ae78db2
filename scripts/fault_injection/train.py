"""Fault injection for `overlay train`: a small network and 20 SIGKILLs, compared with an undisturbed run.

    python scripts/fault_injection/train.py --kills 20 --seed 0

At random times a SIGKILL ends the board actor (first while the images are decoded, for which the workers wait), the
training worker, the process that schedules its data tasks, the driver, a data task's worker, Ray Train's controller,
any other of Ray's processes, or the raylet. A killed command is run again, unchanged, until it succeeds. One worker,
fp32, a checkpoint every third step: the weights must be bitwise equal, and each epoch must be once, with equal numbers,
in history.parquet and in the offline runs of Weights & Biases. Exits with status 1 where they differ.
"""

import argparse
import json
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch

from scripts.fault_injection.processes import Command, descendants, end, kill_one, start, wait

_VICTIMS = {
    "board": "ray::StatusBoard",
    "worker": "ray::RayTrainWorker",
    "driver": "",
    "stream": "ray::StreamProcess",
    "data": "MapBatches|ray::IDLE",  # of tasks that make batches, which are idle between them
    "controller": "ray::TrainController",
    "any": "ray::",
    "raylet": "raylet$",
}
"""kind of process -> regular expression for its title"""
_ONCE = ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "val_macro_f1", "learning_rate", "grad_norm")


def main() -> int:
    """Make a dataset, train without and with kills, and compare weights and history."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--images", type=int, default=60, help="images of each class")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument(
        "--pause", type=float, nargs=2, default=(0.0, 2.0), help="seconds from a new checkpoint to the next kill"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="overlay-kills-") as temporary:
        folder = Path(temporary)
        _prepare(folder, options.images)
        began = time.monotonic()
        undisturbed = start(_command(folder, "undisturbed", options.epochs))
        assert undisturbed.wait() == 0, undisturbed.returncode
        print(f"undisturbed: {time.monotonic() - began:.0f} s", flush=True)
        began = time.monotonic()
        killed, commands = _campaign(folder, options)
        print(f"{sum(killed.values())} kills ({dict(killed)}), {commands} commands, {time.monotonic() - began:.0f} s")
        return _compare(folder / "undisturbed", folder / "disturbed", options.epochs)


def _campaign(folder: Path, options: argparse.Namespace) -> tuple[Counter[str], int]:
    """Run the command until it succeeds, and kill its processes; return kills by kind, and the number of commands."""
    chance = random.Random(options.seed)
    left = [list(_VICTIMS)[number % len(_VICTIMS)] for number in range(options.kills)]
    killed: Counter[str] = Counter()
    commands, seen = 0, ""
    while True:
        commands += 1
        driver = start(_command(folder, "disturbed", options.epochs))
        while driver.poll() is None:
            # The first kill comes while images are decoded; others only after a new checkpoint: Ray and torch take
            # seconds to start, and a run must make progress.
            if left and _newest(folder / "disturbed") != seen:
                wait(driver, chance.uniform(*options.pause))
                if _kill(driver, left[0], chance):
                    victim, seen = left.pop(0), _newest(folder / "disturbed")
                    killed[victim] += 1
                    print(f"  kill {sum(killed.values())}: {victim}, {seen}", flush=True)
            wait(driver, 0.1)
        end(driver)
        if driver.returncode == 0:
            if left:
                print(f"  done before the kills {', '.join(left)}; give more epochs", flush=True)
            return killed, commands


def _kill(driver: Command, victim: str, chance: random.Random) -> bool:
    """Kill a process; return whether there was one."""
    if driver.poll() is not None:
        return False
    if victim == "driver":
        driver.kill()
        return True
    title = re.compile(_VICTIMS[victim])
    return kill_one(descendants(driver, lambda line, name: bool(title.search(line) or title.fullmatch(name))), chance)


def _newest(run: Path) -> str:
    """Return the name of the newest checkpoint, or a text where there is none."""
    return max((folder.name for folder in (run / "checkpoints").glob("step-*")), default="no checkpoint yet")


def _prepare(folder: Path, images: int) -> None:
    """Prepare a dataset of phantoms."""
    from overlay.images import phantoms

    phantoms.write_phantoms(folder / "phantoms", images_per_class=images, seed=0)
    words = ["prepare", str(folder / "phantoms"), "--out", str(folder / "dataset")]
    subprocess.run([sys.executable, "-m", "overlay", *words], check=True, stdout=subprocess.DEVNULL)


def _command(folder: Path, out: str, epochs: int) -> list[str]:
    """Return the command line of a training."""
    words = ["train", str(folder / "dataset"), "--out", str(folder / out), "--model.arch", "resnet18"]
    words += ["--model.weights", "none", "--input.size", "32", "--model.dropout", "0.2", "--train.ema", "0.9"]
    words += ["--train.epochs", str(epochs), "--train.batch_size", "16", "--train.checkpoint_steps", "3"]
    words += ["--train.precision", "fp32", "--early_stopping.patience", str(epochs), "--tracking.mode", "offline"]
    return [sys.executable, "-m", "overlay", *words]


def _compare(undisturbed: Path, disturbed: Path, epochs: int) -> int:
    """Return 0 where the weights are bitwise equal and each epoch is once, with equal numbers; else 1."""
    before, after = (torch.load(run / "Resnet_fineTuning.pth") for run in (undisturbed, disturbed))
    apart = max((before[name].double() - after[name].double()).abs().max().item() for name in before)
    expected, history = (pq.read_table(run / "history.parquet").to_pylist() for run in (undisturbed, disturbed))
    numbers = [[row[name] for name in _ONCE] for row in history] == [[row[name] for name in _ONCE] for row in expected]
    once = [row["epoch"] for row in history] == list(range(1, epochs + 1))
    tracked = sorted(row["epoch"] for row in _logged(disturbed) if "epoch" in row)
    print(
        f"weights differ by at most {apart}; history has each of {len(history)} epochs once: {once}, with equal "
        f"numbers: {numbers}; W&B has {len(tracked)} epochs, each once: {tracked == list(range(1, epochs + 1))}"
    )
    return 0 if apart == 0 and once and numbers and tracked == list(range(1, epochs + 1)) else 1


def _logged(run: Path) -> list[dict[str, Any]]:
    """Read the history rows of all offline runs of Weights & Biases of a training."""
    rows = []
    for file in run.glob("wandb/offline-run-*/run-*.wandb"):
        words = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
        inspected = subprocess.run(words, capture_output=True, text=True, check=False)
        records = [json.loads(line) for line in inspected.stdout.splitlines() if line.startswith("{")]
        rows += [record["history"]["item"] for record in records if record["type"] == "history"]
    return rows


if __name__ == "__main__":
    sys.exit(main())
