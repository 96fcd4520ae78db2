"""A fault campaign: train a small network while something is killed 20 times, and compare with an undisturbed run.

    python scripts/kill_train.py --kills 20 --seed 0

At random moments a SIGKILL ends the driver, the training worker, a data task's worker, Ray Train's controller, the
board, any other of Ray's processes, or the raylet. A command that died is given again, unchanged, until it succeeds.
One worker, fp32, a checkpoint every third step: the weights must be equal to the bit, and each epoch must stand once,
with the same numbers, in history.parquet and in the offline runs of Weights & Biases. Exits with 1 where they differ.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import torch

VICTIMS = {
    "worker": "ray::RayTrainWorker",
    "driver": "",
    "data": "ray::MapBatches",
    "controller": "ray::TrainController",
    "board": "ray::Board",
    "any": "ray::",
    "raylet": "raylet",
}
ONCE = ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "val_macro_f1", "learning_rate", "grad_norm")
Process = subprocess.Popen[bytes]


def main() -> int:
    """Make a dataset, train undisturbed, train with kills, and compare."""
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
        prepare(folder, options.images)
        began = time.monotonic()
        undisturbed = start(command(folder, "undisturbed", options.epochs))
        assert undisturbed.wait() == 0, undisturbed.returncode
        print(f"undisturbed: {time.monotonic() - began:.0f} s", flush=True)
        began = time.monotonic()
        killed, commands = campaign(folder, options)
        print(f"{sum(killed.values())} kills ({dict(killed)}), {commands} commands, {time.monotonic() - began:.0f} s")
        return compare(folder / "undisturbed", folder / "disturbed", options.epochs)


def campaign(folder: Path, options: argparse.Namespace) -> tuple[Counter[str], int]:
    """Give the command until it succeeds, and kill meanwhile."""
    chance = random.Random(options.seed)
    left = [list(VICTIMS)[number % len(VICTIMS)] for number in range(options.kills)]
    killed: Counter[str] = Counter()
    commands, seen = 0, newest(folder / "disturbed")
    while True:
        commands += 1
        driver = start(command(folder, "disturbed", options.epochs))
        while driver.poll() is None:
            # Only what works can be disturbed: Ray and torch take their time to start, and so would a run without end.
            if left and newest(folder / "disturbed") != seen:
                pause(driver, chance.uniform(*options.pause))
                if kill(driver, left[0], chance):
                    victim, seen = left.pop(0), newest(folder / "disturbed")
                    killed[victim] += 1
                    print(f"  kill {sum(killed.values())}: {victim}, {seen}", flush=True)
            pause(driver, 0.1)
        end(driver)
        if driver.returncode == 0:
            if left:
                print(f"  done before the kills {', '.join(left)}; give more epochs", flush=True)
            return killed, commands


def kill(driver: Process, victim: str, chance: random.Random) -> bool:
    """Kill a process; says whether there was one."""
    if driver.poll() is not None:
        return False
    processes = [psutil.Process(driver.pid)] if victim == "driver" else find(driver, VICTIMS[victim])
    try:
        chance.choice(processes).kill()
    except (IndexError, psutil.NoSuchProcess):
        return False
    return True


def find(driver: Process, title: str) -> list[psutil.Process]:
    """Find the processes of the driver's Ray whose command line begins with ``title``, or whose name it is."""
    found = []
    try:
        children = psutil.Process(driver.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    for process in children:
        try:
            if " ".join(process.cmdline()).startswith(title) or process.name() == title:
                found.append(process)
        except psutil.Error:
            continue
    return found


def newest(run: Path) -> str:
    """Return the name of the newest checkpoint, or what stands for the end of the run."""
    return max((folder.name for folder in (run / "checkpoints").glob("step-*")), default="no checkpoint yet")


def prepare(folder: Path, images: int) -> None:
    """Prepare small phantoms."""
    from overlay import phantoms

    phantoms.write(folder / "phantoms", images_per_class=images, seed=0)
    words = ["prepare", str(folder / "phantoms"), "--out", str(folder / "dataset")]
    subprocess.run([sys.executable, "-m", "overlay", *words], check=True, stdout=subprocess.DEVNULL)


def command(folder: Path, out: str, epochs: int) -> list[str]:
    """Return the words of the command."""
    words = ["train", str(folder / "dataset"), "--out", str(folder / out), "--model.arch", "resnet18"]
    words += ["--model.weights", "none", "--input.size", "32", "--model.dropout", "0.2", "--train.ema", "0.9"]
    words += ["--train.epochs", str(epochs), "--train.batch_size", "16", "--train.checkpoint_steps", "3"]
    words += ["--train.precision", "fp32", "--early_stopping.patience", str(epochs), "--tracking.mode", "offline"]
    return [sys.executable, "-m", "overlay", *words]


def start(words: list[str]) -> Process:
    """Start a command in a process group of its own."""
    return subprocess.Popen(words, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def pause(driver: Process, seconds: float) -> None:
    """Wait, and no longer than the driver lives."""
    try:
        driver.wait(seconds)
    except subprocess.TimeoutExpired:
        return


def end(driver: Process) -> None:
    """Wait for what a killed driver leaves: Ray's processes end by themselves."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            os.killpg(driver.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.5)
    os.killpg(driver.pid, signal.SIGKILL)


def compare(undisturbed: Path, disturbed: Path, epochs: int) -> int:
    """Say whether the weights are equal to the bit, and whether each epoch stands once, with the same numbers."""
    before, after = (torch.load(run / "Resnet_fineTuning.pth") for run in (undisturbed, disturbed))
    apart = max((before[name].double() - after[name].double()).abs().max().item() for name in before)
    expected, history = (pq.read_table(run / "history.parquet").to_pylist() for run in (undisturbed, disturbed))
    numbers = [[row[name] for name in ONCE] for row in history] == [[row[name] for name in ONCE] for row in expected]
    once = [row["epoch"] for row in history] == list(range(1, epochs + 1))
    tracked = sorted(row["epoch"] for row in logged(disturbed) if "epoch" in row)
    print(
        f"weights differ by at most {apart}; history has each of {len(history)} epochs once: {once}, with equal "
        f"numbers: {numbers}; W&B has {len(tracked)} epochs, each once: {tracked == list(range(1, epochs + 1))}"
    )
    return 0 if apart == 0 and once and numbers and tracked == list(range(1, epochs + 1)) else 1


def logged(run: Path) -> list[dict[str, Any]]:
    """Read the rows of all offline runs of Weights & Biases that a training left."""
    rows = []
    for file in run.glob("wandb/offline-run-*/run-*.wandb"):
        words = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
        inspected = subprocess.run(words, capture_output=True, text=True, check=False)
        records = [json.loads(line) for line in inspected.stdout.splitlines() if line.startswith("{")]
        rows += [record["history"]["item"] for record in records if record["type"] == "history"]
    return rows


if __name__ == "__main__":
    sys.exit(main())
