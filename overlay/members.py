"""The members of zip and tar archives as they come, with nothing trusted that an archive says of itself.

zipfile and tarfile read the headers. What they would believe is checked here: how much is unpacked, how long it takes,
that a tar goes forwards and has its end.
"""

import errno
import math
import struct
import tarfile
import time
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import IO, BinaryIO, Literal, cast

import pyarrow as pa

from overlay.config import Limits
from overlay.names import escaped
from overlay.storage import one_line

Method = Literal["tar", "gzip", "zstd", "stored", "deflated"]
"""tar: bytes of a plain tar; gzip, zstd: of a tar that is compressed as a whole; stored, deflated: of a zip"""

RATIO_FLOOR = 16 * 2**20
"""bytes that any archive may unpack to, whatever the ratio: a few black masks shrink a thousandfold"""
_HEADER_BYTES = 2**20  # a long name is a few hundred; tarfile would take whatever a header asks for
_STEP = 2**20
_BLOCK = 512
_LABEL_BYTES = 1024
_ENCRYPTED = 1
_LINK = 0o120000
_ZIP_METHODS: Mapping[int, Method] = {zipfile.ZIP_STORED: "stored", zipfile.ZIP_DEFLATED: "deflated"}
_REGULAR = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)


class ArchiveError(ValueError):
    """An archive can't be read further; the message is the reason."""


@dataclass(frozen=True)
class Span:
    """Where a member's bytes lie."""

    method: Method
    offset: int
    """of its first byte in the tar, or of its local header in the zip"""
    packed: int
    """bytes it takes up"""
    size: int
    """bytes it unpacks to"""
    crc: int | None
    """CRC-32 of these, which a tar does not have"""

    @property
    def in_order_only(self) -> bool:
        """Whether all bytes before it have to be read first."""
        return self.method in ("gzip", "zstd")


@dataclass(frozen=True)
class Entry:
    """One member, before anything is judged."""

    name: str
    span: Span
    folder: bool = False
    link: bool = False
    problem: str | None = None
    label: str | None = None


def entries(file: BinaryIO, limits: Limits) -> Iterator[Entry]:
    """Go through an archive of any kind.

    Raises:
        ArchiveError: it breaks off, or exceeds a limit.
    """
    head = file.read(4)
    file.seek(0)
    if not head:
        raise ArchiveError("empty file")
    if head.startswith((b"PK\3\4", b"PK\5\6")):
        return _zip_entries(file, limits)
    compression = {b"\x1f\x8b": "gzip", b"\x28\xb5": "zstd"}.get(head[:2], "tar")
    return _tar_entries(file, cast(Method, compression), limits)


def _zip_entries(file: BinaryIO, limits: Limits) -> Iterator[Entry]:
    packed = file.seek(0, 2)
    deadline = time.monotonic() + limits.seconds
    try:
        archive = zipfile.ZipFile(cast(IO[bytes], _Watched(file)))
    except UnicodeDecodeError:
        raise ArchiveError("damaged archive: a name is marked as UTF-8 and is not") from None
    except (zipfile.BadZipFile, NotImplementedError, struct.error, EOFError, ValueError, OverflowError) as error:
        raise ArchiveError(f"damaged or cut off zip: {one_line(error)}") from error
    total = 0
    for info in archive.infolist():  # not the names: each member of the same name counts
        total += info.file_size
        _check_size(total, packed, limits)
        _check_time(deadline, limits)
        method = _ZIP_METHODS.get(info.compress_type)
        problem = None
        if info.flag_bits & _ENCRYPTED:
            problem = "encrypted member"
        elif method is None:
            problem = f"compression that is not read: {zipfile.compressor_names.get(info.compress_type, '?')}"  # type: ignore[attr-defined]
        elif not 0 <= info.header_offset < packed:
            problem = "damaged archive: the member is not where the zip's directory says"
        yield Entry(
            info.filename.replace("\\", "/"),
            Span(method or "stored", info.header_offset, info.compress_size, info.file_size, info.CRC),
            folder=info.is_dir(),
            link=(info.external_attr >> 16) & 0o170000 == _LINK,
            problem=problem,
        )


def _tar_entries(file: BinaryIO, method: Method, limits: Limits) -> Iterator[Entry]:
    stream = Stream(file, method, limits)
    try:
        archive = tarfile.TarFile(fileobj=cast(IO[bytes], stream), encoding="utf-8")
        while member := archive.next():
            if member.size < 0:
                raise ArchiveError("damaged archive: a member of negative size")
            archive.members = []  # type: ignore[attr-defined]  # tarfile would keep them all
            span = Span(method, member.offset_data, member.size, member.size, None)
            regular = member.type in _REGULAR and not member.issparse()
            label = None
            if regular and member.name.endswith(".cls") and member.size <= _LABEL_BYTES:
                stream.seek(member.offset_data)
                label = stream.take(member.size).decode("utf-8", "replace").strip()
            if regular and member.size:  # is all of it there?
                stream.seek(max(stream.tell(), member.offset_data + member.size - 1))
                if stream.tell() < member.offset_data + member.size and not stream.take(1):
                    raise ArchiveError(f"cut off archive: within {escaped(member.name)}")
            yield Entry(
                member.name, span, folder=member.isdir(), link=not regular and not member.isdir(), label=label or None
            )
    except (tarfile.TarError, ValueError, OverflowError, RecursionError, struct.error) as error:
        if isinstance(error, ArchiveError):
            raise
        if not stream.began:
            raise ArchiveError("no archive that can be read (zip, tar, tar.gz, tar.zst)") from error
        raise ArchiveError(f"damaged or cut off archive: {one_line(error)}") from error
    if not stream.last:
        raise ArchiveError("cut off archive: the blocks that mark its end are missing")
    if len(stream.last) < _BLOCK or any(stream.last):
        raise ArchiveError("damaged or cut off archive: what follows is no header of a member")
    if method != "tar":
        while stream.take(_STEP):  # to its very end, where the checksum is
            pass


class Stream:
    """What an archive unpacks to, read forwards and within the limits; to tarfile, a file."""

    def __init__(self, file: BinaryIO, method: Method, limits: Limits | None = None) -> None:
        self.last = b""
        """what tarfile read last"""
        self._file = _Watched(file)
        self._data: _Watched | pa.NativeFile = self._file
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
            _check_size(self._position, packed, self._limits)
            _check_time(self._deadline, self._limits)
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


class _Watched:
    """A file that counts what is read, and keeps its own error apart from those of the data."""

    closed = False

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.bytes_read = 0
        self.fault: OSError | None = None

    def read(self, size: int = -1) -> bytes:
        try:
            data = self._file.read(size)
        except OSError as error:
            self.fault = error
            raise
        self.bytes_read += len(data)
        return data

    def seek(self, position: int, whence: int = 0) -> int:
        try:
            return self._file.seek(position, whence)
        except (OSError, ValueError, OverflowError) as error:
            if isinstance(error, OSError) and error.errno != errno.EINVAL:
                raise
            raise ArchiveError("damaged archive: it points out of the file") from error

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        """Leave the file open, for it belongs to the caller."""


def _check_size(unpacked: int, packed: int, limits: Limits) -> None:
    if unpacked > limits.archive_bytes:
        raise ArchiveError(f"unpacks to more than {limits.archive_bytes} bytes (limits.archive_bytes)")
    if unpacked > RATIO_FLOOR and unpacked > limits.ratio * packed:
        raise ArchiveError(f"unpacks to more than {limits.ratio:g} times its size (limits.ratio)")


def _check_time(deadline: float, limits: Limits) -> None:
    if time.monotonic() > deadline:
        raise ArchiveError(f"took more than {limits.seconds:g} seconds to list (limits.seconds)")
