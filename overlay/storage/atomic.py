"""Atomic writes of files on a disk or in a bucket."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from overlay.storage.object_store import retried
from overlay.storage.path import StoragePath


@contextmanager
def write_atomically(place: Path | StoragePath) -> Iterator[Path]:
    """Give a temporary local path, and move what was written there to ``place`` once the block has ended.

    On a disk the temporary file lies beside ``place`` and is renamed; to a bucket it is uploaded, where an object
    appears only once all of it is there. A process that is killed in the middle, or a machine that loses its power,
    leaves the old file, or none, and never a torn one.
    """
    if isinstance(place, StoragePath) and place.in_bucket:
        with tempfile.TemporaryDirectory(prefix="overlay-") as folder:
            temporary = Path(folder, place.name)
            yield temporary
            retried(lambda: place.upload(temporary))
        return
    path = Path(place.text) if isinstance(place, StoragePath) else place
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    try:
        yield temporary
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_text_atomically(place: Path | StoragePath, text: str) -> None:
    """Write a small text file atomically, in UTF-8."""
    with write_atomically(place) as temporary:
        temporary.write_text(text, encoding="utf-8")


def sync(path: Path) -> None:
    """Wait until a file or a folder's entries are on the disk, should the machine itself go down."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
