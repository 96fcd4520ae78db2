"""Processes of fault injection: commands in process groups of their own, their descendants, and SIGKILL."""

import os
import random
import subprocess
import time
from collections.abc import Callable, Sequence

import psutil

Command = subprocess.Popen[bytes]


def start(words: list[str]) -> Command:
    """Start a command in a process group of its own."""
    return subprocess.Popen(words, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def wait(command: Command, seconds: float) -> None:
    """Wait for at most so many seconds, or until the command ends."""
    try:
        command.wait(seconds)
    except subprocess.TimeoutExpired:
        return


def descendants(command: Command, matches: Callable[[str, str], bool]) -> list[psutil.Process]:
    """Return the descendants of a command that match by their command line and name."""
    found = []
    try:
        children = psutil.Process(command.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    for process in children:
        try:
            if matches(" ".join(process.cmdline()), process.name()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def kill_one(processes: Sequence[psutil.Process], chance: random.Random) -> bool:
    """Send SIGKILL to a random one of the processes; return whether there was one."""
    try:
        chance.choice(processes).kill()
    except (IndexError, psutil.NoSuchProcess):
        return False
    return True


def kill_group(command: Command) -> None:
    """Send SIGKILL to a command and to all of its descendants at once; nothing to one that has ended."""
    if command.poll() is not None:
        return
    for process in [psutil.Process(command.pid), *descendants(command, lambda _line, _name: True)]:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    command.wait()


def end(command: Command) -> None:
    """Wait until the process group of a command is empty, killed after 60 s: Ray's processes mostly end at once."""
    deadline = time.monotonic() + 60
    while left := [process for process in psutil.process_iter() if _in_group(process, command.pid)]:
        if time.monotonic() > deadline:
            for process in left:
                process.kill()
        time.sleep(0.5)


def _in_group(process: psutil.Process, group: int) -> bool:
    """Whether a process is alive and in a process group."""
    try:
        return os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE
    except (ProcessLookupError, psutil.NoSuchProcess):
        return False
