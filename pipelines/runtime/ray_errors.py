"""Errors of Ray in one line that says what happened and what to do: the one place where they are translated."""

import os
import shutil

from ray.exceptions import (
    LocalRayletDiedError,
    NodeDiedError,
    ObjectStoreFullError,
    OutOfDiskError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    RayTaskError,
    WorkerCrashedError,
)

from overlay.errors import RequestError, WorkError, one_line

_DISK_SHARE = 0.95
"""of a disk, beyond which Ray writes no objects to it"""


def explain_ray_error(error: BaseException) -> str:
    """Return why a task or an actor failed, in one line; an error that it raised itself comes by its own message."""
    cause = error.cause if isinstance(error, RayTaskError) else error
    if isinstance(cause, RequestError | WorkError | OSError) and not isinstance(cause, RayError):
        return one_line(cause)
    if isinstance(cause, OutOfDiskError):
        return _explain_full_disk()
    if isinstance(cause, ObjectStoreFullError):
        return "Ray's object store is full, since tasks need more memory at one time than it has; use a larger machine"
    if isinstance(cause, OutOfMemoryError):
        return "a worker took more memory than there is, and Ray ended it; use a machine with more memory"
    if isinstance(cause, WorkerCrashedError | RayActorError | NodeDiedError | LocalRayletDiedError):
        return "a worker process died again and again: it crashed, its node was lost, or it took too much memory"
    if isinstance(cause, RayError):
        return str(cause).strip().splitlines()[-1].strip()
    return f"an error of Overlay itself, {type(cause).__name__}: {one_line(cause)}; please report it"


def _explain_full_disk() -> str:
    folder = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    disk = shutil.disk_usage(folder)
    missing = max(0, disk.used - int(_DISK_SHARE * disk.total))
    return (
        f"the disk of {folder}, where Ray keeps what does not fit into memory, is full: {missing} bytes are above the "
        f"{_DISK_SHARE:.0%} that it uses at most; make room, or set RAY_TMPDIR to a folder of another disk"
    )
