"""What an archive unpacks to, read forwards and within the limits, whatever it says of itself."""

import errno
import math
import time
from typing import BinaryIO, Literal

import pyarrow as pa

from overlay.config import Limits
from overlay.errors import one_line

Method = Literal["tar", "gzip", "zstd", "stored", "deflated"]
"""tar: bytes of a plain tar; gzip, zstd: of a tar that is compressed as a whole; stored, deflated: of a zip"""

RATIO_FLOOR = 16 * 2**20
"""bytes that any archive may unpack to, whatever the ratio: a few black masks shrink a thousandfold"""
_HEADER_BYTES = 2**20  # a long name is a few hundred; tarfile would take whatever a header asks for
_STEP = 2**20
_BLOCK = 512


class ArchiveError(ValueError):
    """An archive can't be read further; the message is the reason."""


class Stream:
    """What an archive unpacks to, read forwards and within the limits; to tarfile, a file."""

    def __init__(self, file: BinaryIO, method: Method, limits: Limits | None = None) -> None:
        self.last = b""
        """what tarfile read last"""
        self._file = Watched(file)
        self._data: Watched | pa.NativeFile = self._file
        if method != "tar":
            self._data = pa.CompressedInputStream(pa.PythonFile(self._file, mode="r"), method)
        self._seekable = method == "tar"
        self._position = 0
        self._limits = limits
        self._deadline = time.monotonic() + (limits.seconds if limits else math.inf)

    @property
    def began(self) -> bool:
        """Whether more than the first header was read."""
        return self._position > _BLOCK

    def tell(self) -> int:
        """Return the position in what is unpacked."""
        return self._position

    def read(self, size: int) -> bytes:
        """Read a header, for tarfile.

        Raises:
            ArchiveError: the data are damaged, a limit is exceeded, or the header is larger than any should be.
        """
        if not 0 <= size <= _HEADER_BYTES:
            raise ArchiveError(f"damaged archive: a header of {size} bytes")
        self.last = self.take(size)
        return self.last

    def take(self, size: int) -> bytes:
        """Read up to ``size`` bytes, fewer only at the end.

        Raises:
            ArchiveError: the data are damaged, or a limit is exceeded.
        """
        try:
            data: bytes = self._data.read(size)
        except OSError as error:
            if self._file.fault is not None:
                raise self._file.fault from error
            raise ArchiveError(f"damaged or cut off archive: {one_line(error)}") from error
        self._position += len(data)
        if self._limits is not None:
            packed = self._position if self._seekable else self._file.bytes_read
            check_unpacked_size(self._position, packed, self._limits)
            check_time(self._deadline, self._limits)
        return data

    def seek(self, position: int) -> None:
        """Go forwards.

        Raises:
            ArchiveError: it is backwards, which is how a damaged header makes a reader go round for ever; or as `take`.
        """
        if position < self._position:
            raise ArchiveError("damaged archive: a member of negative size")
        if self._seekable:
            self._file.seek(position)
            self._position = position
        while self._position < position and self.take(min(_STEP, position - self._position)):
            pass


class Watched:
    """A file that counts what is read, and keeps its own error apart from those of the data."""

    closed = False

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.bytes_read = 0
        self.fault: OSError | None = None

    def read(self, size: int = -1) -> bytes:
        """Read as a file does; the ``fault`` is kept."""
        try:
            data = self._file.read(size)
        except OSError as error:
            self.fault = error
            raise
        self.bytes_read += len(data)
        return data

    def seek(self, position: int, whence: int = 0) -> int:
        """Go to a position.

        Raises:
            ArchiveError: there is none such.
        """
        try:
            return self._file.seek(position, whence)
        except (OSError, ValueError, OverflowError) as error:
            if isinstance(error, OSError) and error.errno != errno.EINVAL:
                raise
            raise ArchiveError("damaged archive: it points out of the file") from error

    def tell(self) -> int:
        """Return the position."""
        return self._file.tell()

    def close(self) -> None:
        """Leave the file open, for it belongs to the caller."""


def check_unpacked_size(unpacked: int, packed: int, limits: Limits) -> None:
    """Stop an archive that unpacks to too much.

    Raises:
        ArchiveError: it does.
    """
    if unpacked > limits.archive_bytes:
        raise ArchiveError(f"unpacks to more than {limits.archive_bytes} bytes (limits.archive_bytes)")
    if unpacked > RATIO_FLOOR and unpacked > limits.ratio * packed:
        raise ArchiveError(f"unpacks to more than {limits.ratio:g} times its size (limits.ratio)")


def check_time(deadline: float, limits: Limits) -> None:
    """Stop an archive that takes too long.

    Raises:
        ArchiveError: it does.
    """
    if time.monotonic() > deadline:
        raise ArchiveError(f"took more than {limits.seconds:g} seconds to list (limits.seconds)")
