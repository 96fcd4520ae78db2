"""Forward-only stream of a decompressed archive, with limits on size, compression ratio and time."""

import errno
import math
import time
from collections.abc import Mapping
from typing import BinaryIO, Literal, get_args

import pyarrow as pa

from overlay.config import Limits
from overlay.errors import ErrorKind, InputError, one_line

Method = Literal["tar", "gzip", "zstd", "stored", "deflated"]
"""tar: member of a plain tar; gzip, zstd: of a tar that is compressed as a whole; stored, deflated: of a zip"""
METHODS: tuple[Method, ...] = get_args(Method)

RATIO_FLOOR = 16 * 2**20
"""unpacked bytes below which the ratio is not checked: a few black masks compress a thousandfold"""
_HEADER_BYTES = 2**20  # a long name has a few hundred bytes; tarfile would read any size that a header declares
_STEP = 2**20
_BLOCK = 512


class ArchiveError(InputError):
    """Archive, or member of one, that is damaged or exceeds a limit."""


class UnpackedStream:
    """Decompressed bytes of an archive, read forwards and within the limits; a file object for tarfile."""

    def __init__(self, file: BinaryIO, method: Method, limits: Limits | None = None) -> None:
        self.last_header = b""
        """bytes that tarfile read last"""
        self._file = CountingFile(file)
        self._data: CountingFile | pa.NativeFile = self._file
        if method != "tar":
            self._data = pa.CompressedInputStream(pa.PythonFile(self._file, mode="r"), method)
        self._seekable = method == "tar"
        self._position = 0
        self._headers = 0
        self._limits = limits
        self._deadline = time.monotonic() + (limits.seconds if limits else math.inf)

    @property
    def past_first_header(self) -> bool:
        """Whether the position is behind the first header."""
        return self._position > _BLOCK

    def tell(self) -> int:
        """Return the position in the decompressed stream, in bytes."""
        return self._position

    def read(self, size: int) -> bytes:
        """Read a header; called by tarfile.

        Raises:
            ArchiveError: the data are damaged, a limit is exceeded, or the header has more than 1 MiB, or all headers
                of a member more than 2 MiB.
        """
        self._headers += max(size, 0)
        if not 0 <= size <= _HEADER_BYTES or self._headers > 2 * _HEADER_BYTES:
            raise ArchiveError(f"damaged archive: a header of {size if size > _HEADER_BYTES else self._headers} bytes")
        self.last_header = self.take(size)
        return self.last_header

    def end_headers(self, shared: Mapping[str, str]) -> None:
        """Begin to count the headers of the next member; ``shared`` are those of all members, which tarfile keeps.

        Raises:
            ArchiveError: these have more than 1 MiB.
        """
        self._headers = 0
        if shared and sum(len(name) + len(value) for name, value in shared.items()) > _HEADER_BYTES:
            raise ArchiveError(f"damaged archive: headers of more than {_HEADER_BYTES} bytes for all members")

    def take(self, size: int) -> bytes:
        """Read ``size`` bytes, fewer only at the end.

        Raises:
            ArchiveError: the data are damaged, or a limit is exceeded.
            OSError: the file can't be read.
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
        """Skip forwards to a position.

        Raises:
            ArchiveError: the position is before the current one, by which a damaged header would cause an infinite
                loop; or the data are damaged, or a limit is exceeded.
        """
        if position < self._position:
            raise ArchiveError("damaged archive: a member of negative size")
        if self._seekable:
            self._file.seek(position)
            self._position = position
        while self._position < position and self.take(min(_STEP, position - self._position)):
            pass


class CountingFile:
    """File that counts the bytes read, and keeps its own OSError apart from errors in the data."""

    closed = False
    """read by pyarrow"""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.bytes_read = 0
        self.fault: OSError | None = None

    def read(self, size: int = -1) -> bytes:
        """Read as a file does; an OSError is also stored in ``fault``.

        Raises:
            OSError: the file can't be read.
        """
        try:
            data = self._file.read(size)
        except OSError as error:
            self.fault = error
            raise
        self.bytes_read += len(data)
        return data

    def seek(self, position: int, whence: int = 0) -> int:
        """Set the position in the file.

        Raises:
            ArchiveError: the position is negative or too large.
            OSError: the file can't be read.
        """
        try:
            return self._file.seek(position, whence)
        except (OSError, ValueError, OverflowError) as error:
            if isinstance(error, OSError) and error.errno != errno.EINVAL:
                raise
            raise ArchiveError("damaged archive: it points out of the file") from error

    def tell(self) -> int:
        """Return the position in the file, in bytes."""
        return self._file.tell()

    def close(self) -> None:
        """Do nothing: the file belongs to the caller."""


def check_unpacked_size(unpacked: int, packed: int, limits: Limits) -> None:
    """Check the unpacked size of an archive and its compression ratio, both in bytes (decompression bomb).

    Raises:
        ArchiveError: ``limits.archive_bytes`` or ``limits.ratio`` is exceeded.
    """
    if unpacked > limits.archive_bytes:
        raise ArchiveError(
            f"unpacks to more than {limits.archive_bytes} bytes (limits.archive_bytes)", ErrorKind.TOO_LARGE
        )
    if unpacked > RATIO_FLOOR and unpacked > limits.ratio * packed:
        raise ArchiveError(f"unpacks to more than {limits.ratio:g} times its size (limits.ratio)", ErrorKind.TOO_LARGE)


def check_time(deadline: float, limits: Limits) -> None:
    """Check the time that listing an archive takes.

    Raises:
        ArchiveError: ``deadline``, in seconds of `time.monotonic`, has passed.
    """
    if time.monotonic() > deadline:
        raise ArchiveError(f"took more than {limits.seconds:g} seconds to list (limits.seconds)", ErrorKind.TOO_LARGE)
