"""Fault injection by SIGINT and SIGTERM: each verb at random moments, and then the same command to its end.

    python scripts/fault_injection/signals.py --times 10 --others 3 --seed 0
    python scripts/fault_injection/signals.py --verbs train --times 1

Each command gets one signal at a random moment of its own undisturbed duration, SIGINT to its process group, as a
terminal sends it, or SIGTERM to the process alone, as `ray job stop` and Kubernetes do; one that is done before its
signal is tried again. Prints a table: verb, signal, moment, exit status, seconds until the end, last line, and whether
the same command went on to status 0. Exits with status 1 where a status, the line or the resumed command is wrong, or
the end took more than `--most` seconds.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from scripts.fault_injection.processes import end
from scripts.fault_injection.verb_commands import VERB_NAMES, VerbCommands


@dataclass(frozen=True)
class Interruption:
    """One command that got a signal."""

    verb: str
    signal: signal.Signals
    moment: float
    """seconds after the start"""
    status: int
    seconds: float
    """from the signal to the end"""
    line: str
    resumed: int
    """exit status of the same command, afterwards"""
    ended_before: float | None
    """seconds of a command that was done before its signal"""

    def is_right(self, most: float) -> bool:
        """Whether the command ended as it should; one that was all but done when the signal came has status 0."""
        said = "the same command goes on" in self.line
        ended = self.status == 0 or (self.status == 128 + self.signal and said and self.seconds <= most)
        return ended and self.resumed == 0


def main() -> int:
    """Interrupt each verb, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=10, help="of train and predict")
    parser.add_argument("--others", type=int, default=3, help="of each other verb")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--most", type=float, default=30.0, help="seconds from the signal to the end")
    parser.add_argument("--verbs", nargs="+", default=VERB_NAMES, choices=VERB_NAMES)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    wrong = 0
    print("verb      signal   moment  status  seconds  resumed  last line", flush=True)
    with tempfile.TemporaryDirectory(prefix="overlay-signals-") as temporary:
        commands = VerbCommands(Path(temporary))
        for verb in options.verbs:
            began = time.monotonic()
            commands.run(verb, "undisturbed")
            duration = time.monotonic() - began
            left = options.times if verb in ("train", "predict") else options.others
            while left:
                kind = (signal.SIGINT, signal.SIGTERM)[left % 2]
                found = interrupt(commands, verb, kind, chance.uniform(0.05, 0.95) * duration)
                if found.ended_before is not None:  # the machine is less busy than it was
                    duration = found.ended_before
                left -= found.ended_before is None
                wrong += not found.is_right(options.most)
                print(
                    f"{found.verb:9} {found.signal.name:8} {found.moment:6.1f} {found.status:7} {found.seconds:8.1f} "
                    f"{found.resumed:8}  {found.line}{'' if found.is_right(options.most) else '   <- WRONG'}",
                    flush=True,
                )
    print(f"{wrong} wrong")
    return int(wrong > 0)


def interrupt(commands: VerbCommands, verb: str, kind: signal.Signals, moment: float) -> Interruption:
    """Send a signal to a command after so many seconds, wait for its end, and run it again."""
    words, out = commands.words(verb, "interrupted"), commands.out(verb, "interrupted")
    for place in (out, commands.folder / "log"):
        shutil.rmtree(place, ignore_errors=True) if place.is_dir() else place.unlink(missing_ok=True)
    log = commands.folder / "log"
    started = time.monotonic()
    ended_before = None
    with log.open("wb") as file:
        process = subprocess.Popen(
            words,
            stdout=file,
            stderr=file,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell ignores it in the background
        )
        try:
            process.wait(moment)
            ended_before = time.monotonic() - started
        except subprocess.TimeoutExpired:
            (os.killpg if kind == signal.SIGINT else os.kill)(process.pid, kind)
        began = time.monotonic()
        process.wait()
        seconds = time.monotonic() - began
    end(process)
    lines = log.read_text(errors="replace").splitlines() or [""]
    resumed = 0 if process.returncode == 0 else commands.run(verb, "interrupted")
    return Interruption(verb, kind, moment, process.returncode, seconds, lines[-1], resumed, ended_before)


if __name__ == "__main__":
    sys.exit(main())
