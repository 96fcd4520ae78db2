"""Central directory of an untrusted zip, entry by entry.

zipfile builds all entries in memory (about 590 bytes each) before a limit can be applied, and as many as the directory
has bytes for, whatever number it declares. (PKWARE, APPNOTE.TXT 6.3.10, sections 4.3.12 to 4.3.16, 4.5.3 and appendix
D.)
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from overlay.archives.stream import ArchiveError

_ENTRY = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_END_64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR_64 = struct.Struct("<4sIQI")
_LONGEST_COMMENT = 0xFFFF
_IN_EXTRA = 0xFFFFFFFF  # instead of a number that stands in the extra field of zip64
_EXTRA_64 = 1
_UTF_8 = 0x800


@dataclass(frozen=True)
class DirectoryEntry:
    """Entry of a zip's central directory."""

    name: str
    flags: int
    method: int
    crc: int
    packed: int
    """compressed size in bytes"""
    size: int
    """uncompressed size in bytes"""
    offset: int
    """byte offset of the local header in the file"""
    attributes: int
    """external attributes: Unix mode in the upper 16 bits"""


@dataclass(frozen=True)
class _End:
    """End record of a directory."""

    entries: int
    """number of entries as declared; of 16 bits unless it is of zip64"""
    size: int
    """bytes of the directory"""
    offset: int
    """offset of the directory as declared"""
    place: int
    """offset of the record that follows the directory"""
    is_64: bool = False


def read_directory(file: BinaryIO) -> Iterator[DirectoryEntry]:
    """Iterate over the entries of a zip; memory holds one of them, so that the caller can stop at any limit.

    Raises:
        ArchiveError: the zip is damaged or cut off, or its directory is not as large as it declares.
        OSError: the file can't be read.
    """
    end = _find_end(file)
    start = end.place - end.size
    if start < 0 or end.entries * _ENTRY.size > end.size:
        raise ArchiveError("damaged archive: the directory of the zip is not as large as it says")
    moved = start - end.offset  # by what stands before the archive, as in a self-extracting one
    count, left = 0, end.size
    file.seek(start)
    while left > 0:
        head = file.read(_ENTRY.size)
        if len(head) < _ENTRY.size or not head.startswith(b"PK\1\2"):
            raise ArchiveError("damaged or cut off zip: its directory ends early")
        fields = _ENTRY.unpack(head)
        name_bytes, extra_bytes, comment_bytes = fields[10:13]
        name, extra = file.read(name_bytes), file.read(extra_bytes)
        file.seek(comment_bytes, 1)
        left -= _ENTRY.size + name_bytes + extra_bytes + comment_bytes
        count += 1
        flags, method, crc = fields[3], fields[4], fields[7]
        packed, size, offset = _sizes(fields[8], fields[9], fields[16], extra)
        yield DirectoryEntry(_decode(name, flags), flags, method, crc, packed, size, offset + moved, fields[15])
    # Some programs write the last 16 bits of a larger number.
    if count != end.entries and (end.is_64 or count % 2**16 != end.entries):
        raise ArchiveError(f"damaged archive: its directory has {count} entries and declares {end.entries}")


def _find_end(file: BinaryIO) -> _End:
    length = file.seek(0, 2)
    begin = max(0, length - _END.size - _LONGEST_COMMENT)
    file.seek(begin)
    tail = file.read(length - begin)
    place = tail.rfind(b"PK\5\6", 0, len(tail) - _END.size + 4)
    if place < 0:
        raise ArchiveError("damaged or cut off zip: it has no directory at its end")
    _, _, _, _, entries, size, offset, _ = _END.unpack_from(tail, place)
    return _find_end_64(file, begin + place) or _End(entries, size, offset, begin + place)


def _find_end_64(file: BinaryIO, before: int) -> _End | None:
    """Return the end record of zip64, which stands with its locator before the usual one; None where there is none."""
    place = before - _LOCATOR_64.size - _END_64.size
    if place < 0:
        return None
    file.seek(place)
    data = file.read(_END_64.size + _LOCATOR_64.size)
    if len(data) < _END_64.size + _LOCATOR_64.size or data[_END_64.size :][:4] != b"PK\6\7":
        return None
    signature, _, _, _, _, _, _, entries, size, offset = _END_64.unpack_from(data)
    return _End(entries, size, offset, place, is_64=True) if signature == b"PK\6\6" else None


def _sizes(packed: int, size: int, offset: int, extra: bytes) -> tuple[int, int, int]:
    """Return compressed size, uncompressed size and offset, with those that stand in the extra field of zip64."""
    values = [size, packed, offset]
    place = 0
    while place + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, place)
        data = extra[place + 4 : place + 4 + length]
        if len(data) < length:
            raise ArchiveError("damaged archive: an extra field of the zip is cut off")
        if kind == _EXTRA_64:
            for index, value in enumerate(values):
                if value == _IN_EXTRA:
                    if len(data) < 8:
                        raise ArchiveError("damaged archive: an extra field of the zip lacks a number")
                    values[index], data = int.from_bytes(data[:8], "little"), data[8:]
        place += 4 + length
    size, packed, offset = values
    return packed, size, offset


def _decode(name: bytes, flags: int) -> str:
    """Return a name up to its first NUL, as zipfile does."""
    try:
        return name.partition(b"\0")[0].decode("utf-8" if flags & _UTF_8 else "cp437")
    except UnicodeDecodeError:
        raise ArchiveError("damaged archive: a name is marked as UTF-8 and is not") from None
