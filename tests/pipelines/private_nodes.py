"""Nodes of this machine whose disks are their own, by mount namespaces; a test without root is skipped."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

ENVIRONMENT = {"RAY_AUTH_MODE": "disabled", "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "1"}


@contextmanager
def private_node(nodes: Any, folder: Path, cpus: int = 3) -> Iterator[Callable[[], None]]:  # noqa: ANN401
    """Add a node to a cluster that has another disk, an empty one, where ``folder`` is.

    Yields a function that kills all processes of the node, without a warning.
    """
    if os.geteuid() != 0 or subprocess.run(["unshare", "--mount", "true"], check=False).returncode != 0:
        pytest.skip("mount namespaces need root")
    before = _alive(nodes)
    start = f"{Path(sys.executable).with_name('ray')} start --address {nodes.address} --num-cpus {cpus} --block"
    script = f"mount -t tmpfs none {folder} && exec {start}"
    words = ["unshare", "--mount", "sh", "-c", script]
    with subprocess.Popen(words, env=os.environ | ENVIRONMENT, stdout=subprocess.DEVNULL) as process:
        try:
            while _alive(nodes) == before:
                assert process.poll() is None
                time.sleep(0.5)
            namespace = _mounts(process.pid)
            yield lambda: _kill(namespace)
        finally:
            _kill(_mounts(process.pid))
            process.kill()


def _alive(nodes: Any) -> int:  # noqa: ANN401
    return sum(node["Alive"] for node in nodes.global_state.node_table())


def _mounts(process: int | str) -> str:
    with suppress(OSError):
        return os.readlink(f"/proc/{process}/ns/mnt")  # noqa: PTH115 - the target is no path
    return ""


def _kill(namespace: str) -> None:
    """Kill all processes in a mount namespace, but never those in the tests' own."""
    if not namespace or namespace == _mounts("self"):
        return
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and _mounts(process.name) == namespace:
            with suppress(ProcessLookupError):
                os.kill(int(process.name), signal.SIGKILL)
