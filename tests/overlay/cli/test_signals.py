"""SIGINT and SIGTERM at a command: one line and a status, whatever the main thread does."""

import os
import signal
import subprocess
import sys
import time

import pytest

PROGRAM = """
import ctypes, os, signal, sys, threading, time
from contextlib import suppress
from types import ModuleType
from overlay.cli import main, signals
from overlay.errors import saved_if_interrupted

def sleep():
    with saved_if_interrupted(lambda: "3 of 5 rows are saved"):
        print("ready", flush=True)
        time.sleep(60)

def block():  # a call in C that does not return, as a read from a storage that hangs
    mutex = ctypes.create_string_buffer(64)
    with suppress(BaseException):
        print("ready", flush=True)
    while True:
        with suppress(BaseException):  # of a signal that comes before the call
            ctypes.CDLL(None).pthread_mutex_lock(mutex)

def lose():
    print("ready", flush=True)
    try:
        time.sleep(60)
    except BaseException:
        raise OSError("connection lost") from None

def replace():  # as Ray does while it starts
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(number))
    sleep()

def translate():  # as calls of Ray do
    with saved_if_interrupted(lambda: "3 of 5 rows are saved"):
        print("ready", flush=True)
        try:
            time.sleep(60)
        except BaseException:
            raise KeyboardInterrupt from None

def fork():  # as Ray does while it starts; a signal comes in a callback of the fork
    os.register_at_fork(after_in_parent=lambda: signal.raise_signal(signal.SIGTERM))
    with saved_if_interrupted(lambda: "3 of 5 rows are saved"):
        print("ready", flush=True)
        if os.fork() == 0:
            os._exit(0)
        time.sleep(60)

def linger():
    try:
        sleep()
    finally:
        threading.Event().wait(60)

def work(config):
    globals()[sys.argv[1]]()

signals.GRACE_SECONDS = float(sys.argv[2])
signals.SAME_SECONDS = 0.2
module = ModuleType("pipelines.demo")
module.run = work
sys.modules["pipelines.demo"] = module
sys.exit(main.main(["demo"]))
"""
AT_ONCE = "overlay demo: interrupted, and ended at once; what was saved stays, and the same command goes on\n"


def start(work: str, grace: float = 50.0) -> "subprocess.Popen[str]":
    words = [sys.executable, "-c", PROGRAM, work, str(grace)]
    process = subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("work", ["sleep", "translate"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_line_says_what_is_saved(number: signal.Signals, work: str) -> None:
    process = start(work)
    process.send_signal(number)
    _, told = process.communicate(timeout=30)
    name = signal.Signals(number).name
    assert told == f"overlay demo: interrupted by {name}; 3 of 5 rows are saved; the same command goes on\n"
    assert process.returncode == 128 + number


def test_a_signal_that_comes_while_the_process_forks_is_not_lost() -> None:
    process = start("fork")
    _, told = process.communicate(timeout=30)
    assert told == "overlay demo: interrupted by SIGTERM; 3 of 5 rows are saved; the same command goes on\n"
    assert process.returncode == 143


@pytest.mark.parametrize("work", ["lose", "replace"])
def test_what_fails_or_exits_after_a_signal_is_no_failure(work: str) -> None:
    process = start(work)
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=30)
    assert told == "overlay demo: interrupted by SIGTERM; what was saved stays; the same command goes on\n"
    assert process.returncode == 143


def test_a_call_that_does_not_return_is_ended_when_the_time_is_up() -> None:
    process = start("block", grace=0.5)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30) == ("", AT_ONCE)
    assert process.returncode == 130


def test_a_second_signal_ends_at_once_and_one_sent_twice_does_not() -> None:
    process = start("linger")
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    assert process.poll() is None
    os.killpg(process.pid, signal.SIGINT)
    assert process.communicate(timeout=30) == ("", AT_ONCE)
    assert process.returncode == 143


AFTER_WORK = """
import atexit, os, sys, time
from overlay.cli.signals import run_to_exit

class Breaking:  # as a library that is freed while its threads work
    def __del__(self, abort=os.abort):
        abort()

breaking = Breaking()

def work():
    print("done", flush=True)
    wait = "--wait" in sys.argv
    atexit.register(lambda: (print("exiting", flush=wait), time.sleep(60 * wait)))
    return 3

run_to_exit(work)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_after_the_work_leaves_its_status(number: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", AFTER_WORK, "--wait"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert "exiting" in map(str.strip, iter(process.stdout.readline, ""))
        process.send_signal(number)
        assert process.wait(60) == 3


def test_what_breaks_at_the_end_of_the_interpreter_leaves_the_status() -> None:
    done = subprocess.run([sys.executable, "-c", AFTER_WORK], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (3, "done\nexiting\n", "")
