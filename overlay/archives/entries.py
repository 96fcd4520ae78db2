"""Members of untrusted zip and tar archives, in their order.

tarfile parses the headers of a tar, and `overlay.archives.zip_directory` the directory of a zip. This module checks
what they would accept: number of members, unpacked size, compression ratio and time, and for a tar the size of its
headers, that offsets only increase and that the end-of-archive blocks are there.
"""

import json
import struct
import tarfile
import time
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import IO, BinaryIO, cast

from overlay.archives.stream import ArchiveError, Method, UnpackedStream, check_time, check_unpacked_size
from overlay.archives.zip_directory import read_directory
from overlay.config import Limits
from overlay.errors import ErrorKind, Reason, one_line
from overlay.storage.filenames import escape_name

_STEP = 2**20
_BLOCK = 512
_LABEL_BYTES = {".cls": 1024, ".json": 64 * 1024}
"""largest members of a WebDataset that are parsed for a label, in bytes, by extension"""
_ENCRYPTED = 1
_LINK = 0o120000
_ZIP_METHODS: Mapping[int, Method] = {zipfile.ZIP_STORED: "stored", zipfile.ZIP_DEFLATED: "deflated"}
_REGULAR = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)


@dataclass(frozen=True)
class Span:
    """Position of a member's bytes in an archive."""

    method: Method
    offset: int
    """byte offset of its data in the (decompressed) tar, or of its local header in the zip"""
    packed: int
    """compressed size in bytes"""
    size: int
    """uncompressed size in bytes"""
    crc: int | None
    """CRC-32 of the uncompressed bytes; None in a tar, which has none"""

    @property
    def in_order_only(self) -> bool:
        """Whether all bytes before the member have to be decompressed first."""
        return self.method in ("gzip", "zstd")


@dataclass(frozen=True)
class ArchiveEntry:
    """One member of an archive as its headers describe it."""

    name: str
    """as stored: it may be absolute, or lead out of the archive"""
    span: Span
    folder: bool = False
    link: bool = False
    """symbolic or hard link, device, pipe or sparse file"""
    problem: Reason | None = None
    """reason why its bytes can't be read"""
    label: str | None = None
    """label in a member of a WebDataset that holds one"""


def read_entries(file: BinaryIO, limits: Limits) -> Iterator[ArchiveEntry]:
    """Iterate over the members of a zip, tar, tar.gz or tar.zst; the first bytes decide the kind.

    Raises:
        ArchiveError: the archive is empty, damaged or truncated, or exceeds one of ``limits``.
        OSError: the file can't be read.
    """
    head = file.read(4)
    file.seek(0)
    if not head:
        raise ArchiveError("empty file")
    if head.startswith((b"PK\3\4", b"PK\5\6")):
        return _zip_entries(file, limits)
    compression = {b"\x1f\x8b": "gzip", b"\x28\xb5": "zstd"}.get(head[:2], "tar")
    return _tar_entries(file, cast(Method, compression), limits)


def _zip_entries(file: BinaryIO, limits: Limits) -> Iterator[ArchiveEntry]:
    packed = file.seek(0, 2)
    deadline = time.monotonic() + limits.seconds
    total = 0
    for entry in read_directory(file):
        total += entry.size
        check_unpacked_size(total, packed, limits)
        check_time(deadline, limits)
        method = _ZIP_METHODS.get(entry.method)
        problem = None
        if entry.flags & _ENCRYPTED:
            problem = Reason("encrypted member", ErrorKind.REFUSED)
        elif method is None:
            name = zipfile.compressor_names.get(entry.method, "?")  # type: ignore[attr-defined]
            problem = Reason(f"compression that is not read: {name}", ErrorKind.REFUSED)
        elif not 0 <= entry.offset < packed:
            problem = Reason("damaged archive: the member is not where the zip's directory says", ErrorKind.DAMAGED)
        yield ArchiveEntry(
            entry.name.replace("\\", "/"),
            Span(method or "stored", entry.offset, entry.packed, entry.size, entry.crc),
            folder=entry.name.endswith("/"),
            link=(entry.attributes >> 16) & 0o170000 == _LINK,
            problem=problem,
        )


def parse_label(ending: str, data: bytes) -> str | None:
    """Return the label in a member of a WebDataset; None where it holds none.

    A .cls file is the label as text; a .json file has it as ``label`` or ``cls`` of an object, a string or an integer.
    """
    text = data.decode("utf-8", "replace").strip()
    if ending == ".cls":
        return text or None
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        return None
    label = values.get("label", values.get("cls")) if isinstance(values, dict) else None
    usable = isinstance(label, str | int) and not isinstance(label, bool)
    return str(label).strip() or None if usable else None


def _tar_entries(file: BinaryIO, method: Method, limits: Limits) -> Iterator[ArchiveEntry]:
    stream = UnpackedStream(file, method, limits)
    try:
        archive = tarfile.TarFile(fileobj=cast(IO[bytes], stream), encoding="utf-8")
        while member := archive.next():
            if member.size < 0:
                raise ArchiveError("damaged archive: a member of negative size")
            archive.members = []  # type: ignore[attr-defined]  # tarfile would keep all of them in memory
            stream.end_headers(archive.pax_headers)
            span = Span(method, member.offset_data, member.size, member.size, None)
            regular = member.type in _REGULAR and not member.issparse()
            label = None
            ending = member.name[member.name.rfind(".") :]
            if regular and member.size <= _LABEL_BYTES.get(ending, -1):
                stream.seek(member.offset_data)
                label = parse_label(ending, stream.take(member.size))
            if regular and member.size:  # truncated within the member?
                stream.seek(max(stream.tell(), member.offset_data + member.size - 1))
                if stream.tell() < member.offset_data + member.size and not stream.take(1):
                    raise ArchiveError(f"cut off archive: within {escape_name(member.name)}")
            yield ArchiveEntry(
                member.name, span, folder=member.isdir(), link=not regular and not member.isdir(), label=label
            )
    except (tarfile.TarError, ValueError, OverflowError, RecursionError, struct.error) as error:
        if isinstance(error, ArchiveError):
            raise
        if not stream.past_first_header:
            raise ArchiveError("no archive that can be read (zip, tar, tar.gz, tar.zst)") from error
        raise ArchiveError(f"damaged or cut off archive: {one_line(error)}") from error
    if not stream.last_header:
        raise ArchiveError("cut off archive: the blocks that mark its end are missing")
    if len(stream.last_header) < _BLOCK or any(stream.last_header):
        raise ArchiveError("damaged or cut off archive: what follows is no header of a member")
    if method != "tar":
        while stream.take(_STEP):  # up to the end, where the checksum of the compression is
            pass
