"""How a bucket is reached, by pyarrow's file systems: a fault is waited out, and an object is read with seeks."""

import io
import os
import time
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, BinaryIO, TypeVar

from pyarrow import NativeFile
from pyarrow.fs import FileSystem

PAUSES = (1.0, 3.0)
"""seconds before each new try of what a network fault stopped"""

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer as Buffer  # collections.abc has it from Python 3.12 on

_Result = TypeVar("_Result")


@lru_cache(maxsize=64)
def bucket_filesystem(root: str) -> FileSystem:
    """Return the file system of a bucket, by its URI.

    Raises:
        ValueError, NotImplementedError: the URI is none that pyarrow knows.
    """
    found, _ = retried(lambda: FileSystem.from_uri(root))
    return found


def retried(work: Callable[[], _Result]) -> _Result:
    """Do something again after each of ``PAUSES`` where it fails.

    Raises:
        OSError: it still fails; FileNotFoundError at once.
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
    """Open an object to be read, with seeks; ``buffer`` is what one request asks for, in bytes.

    Raises:
        OSError: it can't be read; FileNotFoundError where it is not there.
    """
    return io.BufferedReader(_ObjectReader(filesystem, path), buffer)


class _ObjectReader(io.RawIOBase):
    """Reads an object of a bucket; after a fault it is opened again, and goes on where it was."""

    def __init__(self, filesystem: FileSystem, path: str) -> None:
        self._filesystem, self._path = filesystem, path
        self._position = 0
        self._file: NativeFile | None = None
        self._size = int(retried(self._opened).size())

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
        data = retried(lambda: self._read(len(view)))
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
            file = self._opened()
            file.seek(self._position)
            return bytes(file.read(length))
        except OSError:
            self._file = None
            raise

    def _opened(self) -> NativeFile:
        if self._file is None:
            self._file = self._filesystem.open_input_file(self._path)
        return self._file
