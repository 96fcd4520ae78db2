"""Object storage (S3, Google Cloud Storage) by pyarrow: retries after network faults, seekable readers."""

import io
import os
import time
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, BinaryIO, TypeVar

from pyarrow import NativeFile
from pyarrow.fs import FileSystem

PAUSES = (1.0, 3.0)
"""seconds before each retry after a network fault"""

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer as Buffer  # collections.abc has it from Python 3.12 on

_Result = TypeVar("_Result")


@lru_cache(maxsize=64)
def bucket_filesystem(root: str) -> FileSystem:
    """Return pyarrow's file system for the URI of a bucket, such as ``s3://bucket``; cached in the process.

    Raises:
        ValueError, NotImplementedError: pyarrow doesn't support the URI or one of its parameters.
        OSError: the bucket's region can't be requested.
    """
    found, _ = retry(lambda: FileSystem.from_uri(root))
    return found


def retry(work: Callable[[], _Result]) -> _Result:
    """Call a function, and retry it after each of ``PAUSES`` (seconds) while it raises OSError.

    Raises:
        OSError: the last attempt failed; FileNotFoundError is raised at once.
    """
    for pause in PAUSES:
        try:
            return work()
        except FileNotFoundError:
            raise
        except OSError:
            time.sleep(pause)
    return work()


def open_object(filesystem: FileSystem, path: str, buffer: int) -> BinaryIO:
    """Open an object for reading, with seeks; each request asks for ``buffer`` bytes.

    Raises:
        FileNotFoundError: there is no such object.
        OSError: the object can't be opened after all retries.
    """
    return io.BufferedReader(_ObjectReader(filesystem, path), buffer)


class _ObjectReader(io.RawIOBase):
    """Seekable reader of an object; after a fault it opens the object again and resumes at its position."""

    def __init__(self, filesystem: FileSystem, path: str) -> None:
        self._filesystem, self._path = filesystem, path
        self._position = 0
        self._file: NativeFile | None = None
        self._size = int(retry(self._open_file).size())

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        if position < 0:
            raise ValueError(f"negative position {position}")
        self._position = position
        return position

    def readinto(self, buffer: "Buffer") -> int:
        view = memoryview(buffer).cast("B")
        if self._position >= self._size:
            return 0
        data = retry(lambda: self._read(len(view)))
        view[: len(data)] = data
        self._position += len(data)
        return len(data)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
        super().close()

    def _read(self, length: int) -> bytes:
        try:
            file = self._open_file()
            file.seek(self._position)
            return bytes(file.read(length))
        except OSError:
            self._file = None
            raise

    def _open_file(self) -> NativeFile:
        if self._file is None:
            self._file = self._filesystem.open_input_file(self._path)
        return self._file
