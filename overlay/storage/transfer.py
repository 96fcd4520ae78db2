"""Transfers between a disk and a bucket: local copies, uploads out of memory, copies in a bucket, scratch folders."""

import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from overlay.storage.object_store import retry
from overlay.storage.path import StoragePath

DOWNLOAD_BYTES = 16 * 2**20
"""of an object, asked for in one request"""


@contextmanager
def local_copy(place: StoragePath) -> Iterator[Path]:
    """Yield a local path of a file, for readers that need one: its own, or that of a temporary copy of an object.

    Raises:
        FileNotFoundError: there is no such object; for a path on a disk, whoever reads it finds out.
        OSError: the bucket can't be reached, or the local disk is full.
    """
    if not place.in_bucket:
        yield Path(place.text)
        return
    with tempfile.TemporaryDirectory(prefix="overlay-") as folder:
        copy = Path(folder, place.name)
        with place.open(DOWNLOAD_BYTES) as source, copy.open("wb") as target:
            shutil.copyfileobj(source, target, DOWNLOAD_BYTES)
        yield copy


@contextmanager
def scratch_folder(parent: StoragePath) -> Iterator[StoragePath]:
    """Yield a new folder in ``parent``, on a disk or in a bucket, and delete it with its contents when the block ends.

    Raises:
        OSError: it can't be made or deleted.
    """
    folder = parent / f".overlay-{uuid4().hex[:8]}"
    folder.make_folder()
    try:
        yield folder
    finally:
        folder.remove()


def upload_blocks(place: StoragePath, blocks: Callable[[], Iterable[memoryview]]) -> None:
    """Write an object of a bucket out of memory, block by block; a retry asks for the blocks again.

    A process that is killed may leave an object that ends early, so a reader must know by other means that it is whole.

    Raises:
        OSError: the bucket rejects the upload, or can't be reached.
    """
    filesystem = place.filesystem
    assert filesystem is not None

    def upload() -> None:
        with filesystem.open_output_stream(place.path, compression=None) as sink:
            for block in blocks():
                sink.write(block)

    retry(upload)


def copy_object(source: StoragePath, target: StoragePath) -> None:
    """Copy an object within its bucket, which the bucket's server does.

    Raises:
        OSError: there is no such object, or the bucket can't be reached.
    """
    filesystem = source.filesystem
    assert filesystem is not None
    retry(lambda: filesystem.copy_file(source.path, target.path))
