"""Fault injection for a Ray head: killed with the driver of its job, and the same command given to a new head.

    python scripts/fault_injection/head.py --verbs predict train --seed 0

As a RayJob goes: `overlay submit` starts the verb on a head, a SIGKILL ends all processes of that head at a random
moment of the work, the driver among them, and a new head gets the same command. Prints how much was done when the head
was killed, from how much the second command went on, and so what was done twice: rows of predict, steps of train.
Exits with status 1 where the second command fails, or its rows or weights are not those of an undisturbed command.
"""

import argparse
import os
import random
import re
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import torch

from overlay.storage.path import StoragePath
from overlay.training import checkpoint
from scripts.fault_injection.predict import write_noise_images, write_random_model
from scripts.fault_injection.processes import Command, kill_group, start
from scripts.fault_injection.verb_commands import VerbCommands

_START_SECONDS = 600
_PROGRESS = re.compile(
    r"^(?:\S+Z )?(?:classifying|training): (\d+) of (\d+) images in [\d.]+ s, ([\d.]+) images/s", re.MULTILINE
)
_RESUMED = {"predict": re.compile(r"going on: (\d+) of"), "train": re.compile(r"at step (\d+) of")}


class Work:
    """A verb's command, and how much of it is done."""

    def __init__(self, verb: str, folder: Path, images: int) -> None:
        self.verb, self.folder = verb, folder
        self._commands = VerbCommands(folder, images=16)
        if verb == "predict":
            write_noise_images(folder / "noise", images, seed=0)
            write_random_model(folder / "model.pth", size=224)
        else:
            self._commands.run("prepare", "undisturbed")

    def words(self, name: str) -> list[str]:
        """Return the words after `overlay` whose output gets a name."""
        out = ["--out", str(self.folder / name)]
        if self.verb == "predict":
            given = [str(self.folder / "model.pth"), str(self.folder / "noise"), "--precision", "fp32"]
            return ["predict", *given, "--part_rows", "50", *out]
        dataset = str(self._commands.out("prepare", "undisturbed"))
        words = ["train", dataset, "--model.arch", "resnet18", "--model.weights", "none", "--input.size", "32"]
        words += ["--train.precision", "fp32", "--train.batch_size", "8", "--train.checkpoint_steps", "10"]
        return [*words, "--train.epochs", "60", "--early_stopping.patience", "60", *out]

    def saved(self, name: str) -> int:
        """Return how many rows are committed, or how many steps a checkpoint has."""
        out = self.folder / name
        if self.verb == "predict":
            parts = [str(part) for part in (out / "predictions").glob("part-*.parquet")]
            return int(duckdb.read_parquet(parts).count("*").fetchall()[0][0]) if parts else 0
        return checkpoint.checkpoint_step(checkpoint.newest_checkpoint(StoragePath.of(out / "checkpoints")))

    def equal(self) -> bool:
        """Whether the disturbed output equals the undisturbed one."""
        both = [self.folder / name for name in ("undisturbed", "disturbed")]
        if self.verb == "predict":
            names = "id, status, error, label"
            rows = [
                duckdb.read_parquet(f"{out}/predictions/*.parquet").order("id").project(names).fetchall()
                for out in both
            ]
            return bool(rows[0] == rows[1])
        states = [torch.load(out / "Resnet_fineTuning.pth") for out in both]
        return all(torch.equal(states[0][name], states[1][name]) for name in states[0])


class Head:
    """A Ray head with a job server and a token of its own."""

    def __init__(self, folder: str) -> None:
        self._folder, dashboard = folder, _free_port()
        self.address = f"http://127.0.0.1:{dashboard}"
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        self.environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        ray = str(Path(sys.executable).with_name("ray"))
        words = ["env", *(f"{name}={self.environment[name]}" for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN"))]
        words += [ray, "start", "--head", "--block", "--num-cpus=2", f"--temp-dir={folder}", "--include-dashboard=true"]
        words += [f"--port={_free_port()}", f"--dashboard-port={dashboard}"]
        self._process: Command = start([*words, f"--dashboard-agent-listen-port={_free_port()}"])

    def submit(self, words: list[str], *options: str) -> subprocess.CompletedProcess[str]:
        """Submit a verb; try again while the job server starts."""
        command = [sys.executable, "-m", "overlay", "submit", "--address", self.address, *options, "--", *words]
        deadline = time.monotonic() + _START_SECONDS
        while True:
            done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False)
            if done.returncode == 0 or time.monotonic() > deadline or "no Ray job server answers" not in done.stderr:
                return done
            time.sleep(1)

    def progress(self) -> tuple[float, int] | None:
        """Return how many images the job has done by now, by its last line and its rate, and of how many."""
        for file in Path(self._folder).glob("session_2*/logs/job-driver-*.log"):
            if found := _PROGRESS.findall(file.read_text(errors="replace")):
                since = time.time() - file.stat().st_mtime
                return float(found[-1][0]) + float(found[-1][2]) * since, int(found[-1][1])
        return None

    def kill(self) -> None:
        """End all processes of the head at once, the driver of its job among them."""
        kill_group(self._process)


@contextmanager
def _started_head() -> Iterator[Head]:
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as short:  # sockets have short paths
        head = Head(short)
        try:
            yield head
        finally:
            head.kill()


def main() -> int:
    """Kill a head in the middle of each verb, and print what was done twice."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--verbs", nargs="+", default=["predict", "train"], choices=["predict", "train"])
    parser.add_argument("--images", type=int, default=2000, help="of predict")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    wrong, chance = 0, random.Random(options.seed)
    for verb in options.verbs:
        with tempfile.TemporaryDirectory(prefix="overlay-head-") as folder:
            wrong += not _kill_once(Work(verb, Path(folder), options.images), chance)
    return int(wrong > 0)


def _kill_once(work: Work, chance: random.Random) -> bool:
    """Run the verb undisturbed and disturbed; return whether the outputs are equal."""
    with _started_head() as head:
        done = head.submit(work.words("undisturbed"))
        if done.returncode:
            raise RuntimeError(f"the undisturbed command failed: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    with _started_head() as head:
        head.submit(work.words("disturbed"), "--name", "disturbed", "--detach")
        _wait_for_work(work, head)
        time.sleep(chance.uniform(0, 10))
        head.kill()
        progress = head.progress()
    with _started_head() as head:
        began = time.monotonic()
        done = head.submit(work.words("disturbed"), "--name", "disturbed")
        seconds = time.monotonic() - began
    resumed = float(found[1]) if (found := _RESUMED[work.verb].search(done.stdout)) else 0.0
    if work.verb == "train" and progress and (steps := re.search(r"at step \d+ of (\d+)", done.stdout)):
        resumed *= progress[1] / int(steps[1])  # steps to images
    equal = done.returncode == 0 and work.equal()
    before = (
        f"{progress[0]:.0f} of {progress[1]}, {max(0.0, progress[0] - resumed):.0f} of them twice" if progress else "?"
    )
    print(
        f"{work.verb}: images done when the head was killed: about {before}; the new head went on from {resumed:.0f}, "
        f"ended after {seconds:.0f} s with status {done.returncode}; output equal: {equal}",
        flush=True,
    )
    return equal


def _wait_for_work(work: Work, head: Head) -> None:
    """Wait until something is committed, and the job has told its progress, which it does every 30 seconds."""
    deadline = time.monotonic() + _START_SECONDS
    while not work.saved("disturbed") or head.progress() is None:
        if time.monotonic() > deadline:
            raise RuntimeError("nothing was committed")
        time.sleep(0.1)


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


if __name__ == "__main__":
    sys.exit(main())
