"""Ray session of a job: the cluster in RAY_ADDRESS, or else a local session of its own on this machine.

Ray reads some of its settings while it is imported, so import this module before ray.
"""

import importlib
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cluster.nodes import Resources, working_nodes
from overlay.errors import RequestError, WorkError, one_line

_SETTINGS = {
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # else `uv run` makes every worker build the environment again
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths mean the same in a training worker as in the command
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",  # the verbs show their own progress
}
for _name, _value in _SETTINGS.items():
    os.environ.setdefault(_name, _value)

CONNECT_SECONDS = 10
START_WORD_SECONDS, START_SECONDS = 30.0, 300.0
"""of one attempt to start Ray: until a line says that it takes so long, and until the process ends"""
START_ATTEMPTS = 3
"""a raylet whose agent needs more than 30 s to start, on a busy machine, ends itself"""
TEMPORARY_BYTES = 38
"""longest path of a folder for Ray's session, whose sockets' names have 68 bytes more, of 107 at most"""
TOKEN_ADVICE = "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN (or RAY_AUTH_TOKEN_PATH) to the cluster's"

_LOGGERS = {
    "ray.data._internal.execution": logging.WARNING,  # a plan and a time for each dataset
    "ray.data._internal.progress": logging.ERROR,  # warns that the progress bars are off
    "ray._private.authentication": logging.ERROR,  # warns that the token is on
    "ray.data.dataset": logging.ERROR,  # warns that no CPU is free at the moment: those that work will be
}


def connect_while_importing(module: str) -> None:
    """Start a local session as `connect` does, and import a module in a thread meanwhile: both take seconds.

    Does nothing where RAY_ADDRESS names a cluster. Ray is started by the main thread, since its processes end with the
    thread that started them, and its handlers of signals belong there.
    """
    import ray  # noqa: F401  # not by two threads at one time

    if not may_grow():
        threading.Thread(target=importlib.import_module, args=(module,), name="imports", daemon=True).start()
        connect()


def connect() -> None:
    """Join the cluster in RAY_ADDRESS, or start a local session; do nothing where this process has a session.

    A local session never attaches to another Ray of this machine. Worker output is not copied to the terminal: errors
    of a worker reach the caller as exceptions, and its log is in Ray's session folder.

    Raises:
        RequestError: the cluster can't be reached, refuses the token, or this machine is none of its nodes.
    """
    import ray

    if ray.is_initialized():
        return
    for name, level in _LOGGERS.items():
        logging.getLogger(name).setLevel(level)
    address = os.environ.get("RAY_ADDRESS") or "local"
    with _kept_signal_handlers():
        if address == "local":
            _start()
        else:
            _join(address)


def resources() -> Resources:
    """Return the resources of the joined cluster, now."""
    import ray

    free = ray.available_resources()  # type: ignore[no-untyped-call]
    return Resources(working_nodes(), free.get("CPU", 0.0), free.get("GPU", 0.0))


def may_grow() -> bool:
    """Whether the session is that of a cluster (RAY_ADDRESS), whose nodes may come and go; a local one can't grow."""
    return os.environ.get("RAY_ADDRESS", "local") not in ("", "local")


def node_resources() -> tuple[list[dict[str, float]], dict[str, float]]:
    """Return the resources of each node of the joined cluster, and those of all nodes that are free."""
    import ray

    nodes = [dict(node["Resources"]) for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    return nodes, dict(ray.available_resources())  # type: ignore[no-untyped-call]


def is_queued(bundle: dict[str, float]) -> bool:
    """Whether placement groups with bundles of these resources are pending in the joined cluster."""
    from ray.util import placement_group_table

    groups: list[dict[str, Any]] = list(placement_group_table().values())
    return any(group["state"] == "PENDING" and bundle in group["bundles"].values() for group in groups)


def check_address(address: str) -> None:
    """Check that a Ray address, host:port or "auto", accepts connections; Ray itself retries for minutes, and prints.

    Raises:
        RequestError: the address is of another kind, or nothing answers there within 10 seconds.
    """
    if "://" in address:
        raise RequestError(
            f"RAY_ADDRESS is {address}, which this command can't join; use overlay submit --address for a cluster "
            "elsewhere, or give host:port of a cluster that has this machine as a node"
        )
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise RequestError(f"RAY_ADDRESS is {address!r}; give it as host:port, or unset it for a local session")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise RequestError(
            f"no Ray cluster answers at RAY_ADDRESS={address} ({error}); check the address and that the head node "
            "runs, or unset RAY_ADDRESS for a local session"
        ) from None


def _start() -> None:
    import joblib
    import ray

    _protect_token()
    choose_temporary_folder()
    # An actor that watches for the preemption of nodes; this one is not preempted, and every actor wakes a hundred
    # times a second, which takes half a percent of two cores.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    os.environ.setdefault("RAY_enable_metrics_collection", "0")  # there is no dashboard that shows them
    # An idle worker process goes after a second, and the next task waits for a new one, which takes seconds of a core.
    os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", "60000")
    # Ray lowers its workers' priority by 15: every other process interrupts a training, all of whose cores then wait.
    # Without, it is the command's own (`nice overlay train ...`).
    os.environ.setdefault("RAY_worker_niceness", "0")
    for attempt in range(START_ATTEMPTS):
        try:
            with _bounded_start():
                ray.init(
                    address="local",
                    num_cpus=max(2, joblib.cpu_count()),  # with 1, training and the tasks that feed it would deadlock
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.WARNING,
                )
            return
        except Exception as error:  # a plain one, where Ray's processes did not start in time: a busy machine
            ray.shutdown()
            if attempt + 1 == START_ATTEMPTS:
                raise WorkError(
                    f"Ray did not start on this machine in {START_ATTEMPTS} attempts ({one_line(error)}); its logs are "
                    f"in {_temporary_folder()}/ray; the same command tries again"
                ) from error


@contextmanager
def _bounded_start() -> Iterator[None]:
    """Say that Ray's start takes long, and at last end the process.

    Its C++ part waits forever for the first workers, and nothing interrupts it, where one of them dies at once.
    """
    timers = [threading.Timer(START_WORD_SECONDS, _say_waiting), threading.Timer(START_SECONDS, _give_up)]
    for timer in timers:
        timer.daemon = True
        timer.start()
    try:
        yield
    finally:
        for timer in timers:
            timer.cancel()


def _say_waiting() -> None:
    print(f"waiting for Ray to start on this machine for {START_WORD_SECONDS:.0f} s", file=sys.stderr, flush=True)


def _give_up() -> None:
    reason = f"Ray did not start on this machine in {START_SECONDS:.0f} s; its logs are in {_temporary_folder()}/ray"
    print(f"overlay: {reason}; the same command tries again", file=sys.stderr, flush=True)
    os._exit(1)


def _temporary_folder() -> str:
    return os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"


def choose_temporary_folder() -> None:
    """Let Ray use /tmp where the path of TMPDIR is too long for the names of Ray's sockets.

    Raises:
        RequestError: RAY_TMPDIR is too long, or the folder can't be written to.
    """
    given = _temporary_folder()
    if len(os.fsencode(given)) > TEMPORARY_BYTES and not os.environ.get("RAY_TMPDIR"):
        given = os.environ["RAY_TMPDIR"] = "/tmp"
    if len(os.fsencode(given)) > TEMPORARY_BYTES:
        raise RequestError(
            f"RAY_TMPDIR is {given}, too long for the names of Ray's sockets; set it to a path of at most "
            f"{TEMPORARY_BYTES} bytes"
        )
    if not os.access(given, os.W_OK | os.X_OK):
        raise RequestError(f"Ray can't write to {given}; set RAY_TMPDIR to a folder that can be written to")


def _protect_token() -> None:
    """Make Ray's token file readable by its owner alone, before Ray writes into it (it would use mode 0644)."""
    token = Path.home() / ".ray" / "auth_token"
    try:
        token.parent.mkdir(exist_ok=True)
        token.touch(mode=0o600)
        token.chmod(0o600)
    except OSError as error:
        raise RequestError(
            f"Ray can't keep its token in {token} ({error.strerror}); set HOME to a folder of yours"
        ) from None


def _join(address: str) -> None:
    import ray
    from ray.exceptions import AuthenticationError

    check_address(address)
    try:
        with _silenced_stderr():  # Ray's C++ part writes each of its twenty tries there
            ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
    except AuthenticationError:
        raise RequestError(
            f"the Ray cluster in RAY_ADDRESS={address} wants a token and there is none; {TOKEN_ADVICE}"
        ) from None
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise RequestError(
            f"can't join the Ray cluster in RAY_ADDRESS={address} ({reason}); if it wants a token, {TOKEN_ADVICE}; "
            "if this machine is none of its nodes, use overlay submit"
        ) from None


@contextmanager
def _kept_signal_handlers() -> Iterator[None]:
    """Restore the handler of SIGTERM, which Ray replaces in the main thread, where the block ends."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


@contextmanager
def _silenced_stderr() -> Iterator[None]:
    """Redirect file descriptor 2 to the null device, for Python and C++ alike."""
    kept = os.dup(2)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)
