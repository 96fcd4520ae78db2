"""The members of zip and tar archives as they come, with nothing trusted that an archive says of itself.

zipfile and tarfile read the headers. What they would believe is checked here: how much is unpacked, how long it takes,
that a tar goes forwards and has its end.
"""

import json
import struct
import tarfile
import time
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import IO, BinaryIO, cast

from overlay.archives.stream import ArchiveError, Method, Stream, Watched, check_time, check_unpacked_size
from overlay.config import Limits
from overlay.errors import one_line
from overlay.storage.filenames import escape_name

_STEP = 2**20
_BLOCK = 512
_LABEL_BYTES = {".cls": 1024, ".json": 64 * 1024}
"""of the members of a WebDataset that tell a label; larger ones are something else"""
_ENCRYPTED = 1
_LINK = 0o120000
_ZIP_METHODS: Mapping[int, Method] = {zipfile.ZIP_STORED: "stored", zipfile.ZIP_DEFLATED: "deflated"}
_REGULAR = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)


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
        archive = zipfile.ZipFile(cast(IO[bytes], Watched(file)))
    except UnicodeDecodeError:
        raise ArchiveError("damaged archive: a name is marked as UTF-8 and is not") from None
    except (zipfile.BadZipFile, NotImplementedError, struct.error, EOFError, ValueError, OverflowError) as error:
        raise ArchiveError(f"damaged or cut off zip: {one_line(error)}") from error
    total = 0
    for info in archive.infolist():  # not the names: each member of the same name counts
        total += info.file_size
        check_unpacked_size(total, packed, limits)
        check_time(deadline, limits)
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


def told_label(ending: str, data: bytes) -> str | None:
    """Return the label that a member of a WebDataset tells; None where it is about something else.

    A .cls holds it as text, a .json as ``label`` or ``cls`` of an object, which is a text or a whole number.
    """
    text = data.decode("utf-8", "replace").strip()
    if ending == ".cls":
        return text or None
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        return None
    label = values.get("label", values.get("cls")) if isinstance(values, dict) else None
    told = isinstance(label, str | int) and not isinstance(label, bool)
    return str(label).strip() or None if told else None


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
            ending = member.name[member.name.rfind(".") :]
            if regular and member.size <= _LABEL_BYTES.get(ending, -1):
                stream.seek(member.offset_data)
                label = told_label(ending, stream.take(member.size))
            if regular and member.size:  # is all of it there?
                stream.seek(max(stream.tell(), member.offset_data + member.size - 1))
                if stream.tell() < member.offset_data + member.size and not stream.take(1):
                    raise ArchiveError(f"cut off archive: within {escape_name(member.name)}")
            yield Entry(member.name, span, folder=member.isdir(), link=not regular and not member.isdir(), label=label)
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
