"""Probe of a cluster's disks: whether a path on a disk is the same file or folder on every node, before any work.

Where nodes have disks of their own, a job fails late and says something else: a worker finds no checkpoint and begins
again, shards lie where nobody reads them.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TypeVar
from uuid import uuid4

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from overlay.errors import RequestError, one_line
from overlay.storage.atomic import write_text_atomically
from overlay.storage.path import StoragePath
from overlay.storage.transfer import scratch_folder

SHARED_DISK_ADVICE = "give a path on a disk that all nodes share, or in a bucket (s3://bucket/...)"
ANSWER_SECONDS = 60
"""longest time that a node's task is waited for; a busy node is none that has another disk"""

_Answer = TypeVar("_Answer")


def check_shared_disk(read: Sequence[tuple[str, StoragePath]], written: Sequence[tuple[str, StoragePath]]) -> None:
    """Check that paths mean the same on all nodes; those in a bucket, and a cluster of one node, need no check.

    Args:
        read: options, and the file or folder that the nodes read; one that is here must be there, a file as long.
        written: options, and the folder that this process and the nodes write to; it need not exist. A file written
            here must be readable there, and the reverse.

    Raises:
        RequestError: they differ on a node; the message names it by its address.
        OSError: a folder can't be written here.
    """
    nodes = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}  # type: ignore[no-untyped-call]
    if len(nodes) < 2:
        return
    for option, place in read:
        if not place.in_bucket and (size := size_here(place)) is not None:
            _check_reading(option, place, size, nodes)
    for option, place in written:
        if not place.in_bucket:
            _check_writing(option, place, nodes)


def size_here(place: StoragePath) -> int | None:
    """Return the size of a file on this machine, 0 of a folder, None where there is neither."""
    try:
        return 0 if place.is_folder() else place.size()
    except OSError:
        return None


def answer_probe(folder: StoragePath, token: str, name: str) -> str | None:
    """Read the driver's file of a probe and write one with the same content; return what failed, or None."""
    try:
        if (folder / "driver").read_bytes().decode() != token:
            return "a file written here has another content there"
        write_text_atomically(folder / name, token)
    except FileNotFoundError:
        return "a file written here is not there"
    except OSError as error:
        return one_line(error)
    return None


def _check_reading(option: str, place: StoragePath, size: int, nodes: Mapping[str, str]) -> None:
    for node, found in _ask(size_here, dict.fromkeys(nodes, (place,))).items():
        if found != size:
            there = "is not there" if found is None else "is another one"
            raise RequestError(f"{option} {place} {there} on the node {nodes[node]}; {SHARED_DISK_ADVICE}")


def _check_writing(option: str, place: StoragePath, nodes: Mapping[str, str]) -> None:
    token = uuid4().hex
    with scratch_folder(_existing(place)) as folder:
        write_text_atomically(folder / "driver", token)
        for node, reason in _ask(answer_probe, {node: (folder, token, node) for node in nodes}).items():
            if reason is None and not (folder / node).is_file():
                reason = "a file written there is not here"
            if reason is not None:
                raise RequestError(
                    f"{option} {place} is not shared with the node {nodes[node]}: {reason}; {SHARED_DISK_ADVICE}"
                )


def _ask(work: Callable[..., _Answer], calls: Mapping[str, tuple[object, ...]]) -> dict[str, _Answer]:
    """Run a function on each node, with its arguments; a node that is lost meanwhile, or gives no answer, is left out.

    Returns:
        node -> what the function returned there.
    """
    tasks: dict[str, ray.ObjectRef[_Answer]] = {}
    for node, arguments in calls.items():
        there = NodeAffinitySchedulingStrategy(node, soft=False)
        task = ray.remote(work).options(num_cpus=0, max_retries=0, scheduling_strategy=there)
        tasks[node] = task.remote(*arguments)
    answers = {}
    for node, reference in tasks.items():
        with suppress(RayError):
            answers[node] = ray.get(reference, timeout=ANSWER_SECONDS)
    return answers


def _existing(place: StoragePath) -> StoragePath:
    """Return a folder, or the nearest one above it that exists."""
    while not place.is_folder() and place != place.parent:
        place = place.parent
    return place
