"""Atomic write of files on a disk (temporary file, fsync, rename) or in a bucket (one upload)."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from overlay.errors import DiskFullError
from overlay.storage.disk_space import disk_full_error, is_disk_full
from overlay.storage.object_store import retry
from overlay.storage.path import StoragePath


@contextmanager
def write_atomically(place: Path | StoragePath, size: int | None = None) -> Iterator[Path]:
    """Yield a temporary local path, and commit what was written there to ``place`` when the block ends.

    On a disk the temporary file lies beside ``place``; it is synchronised (fsync) and renamed. To a bucket it is
    uploaded, where an object becomes visible only when it is complete. A killed process or a power failure leaves the
    old file or none, never a partial one. ``size`` in bytes, where it is known, is for the message of a full disk.

    Raises:
        DiskFullError: the disk of the temporary file is full.
        OSError: the temporary file can't be written, renamed or uploaded.
    """
    if isinstance(place, StoragePath) and place.in_bucket:
        with tempfile.TemporaryDirectory(prefix="overlay-") as folder:
            temporary = Path(folder, place.name)
            with _full_disk_named(temporary, size):
                yield temporary
            retry(lambda: place.upload(temporary))
        return
    path = Path(place.text) if isinstance(place, StoragePath) else place
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    try:
        with _full_disk_named(temporary, size):
            yield temporary
            sync(temporary)
            temporary.replace(path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _full_disk_named(file: Path, size: int | None) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:
        if is_disk_full(error) and not isinstance(error, DiskFullError):
            raise disk_full_error(file, size) from error
        raise


def write_text_atomically(place: Path | StoragePath, text: str) -> None:
    """Write a small text file atomically, in UTF-8.

    Raises:
        OSError: the file can't be written.
    """
    with write_atomically(place) as temporary:
        temporary.write_text(text, encoding="utf-8")


def sync(path: Path) -> None:
    """Flush a file, or the entries of a folder, to the disk (fsync), so that they survive a power failure.

    Raises:
        OSError: the path can't be opened or flushed.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
