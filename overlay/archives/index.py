"""Index of images in archives (.zip, .tar, .tar.gz, .tar.zst), on a disk or in a bucket, and readers of their members.

An archive is read twice. `list_archive` scans it once and records the position of each image (a `Span`); nothing is
extracted to a disk, so path traversal is impossible. Then members of a zip or a plain tar are read by position, in
parallel; a tar that is compressed as a whole is read once more from its start (`read_members_in_order`).

A problem of an archive or a member becomes a reason in the listing. Members before the position where an archive is
damaged, or exceeds a limit, are used.
"""

import struct
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO

import pyarrow as pa

from overlay.archives.entries import ArchiveEntry, Span, read_entries
from overlay.archives.member_table import MemberCollector, MemberTable
from overlay.archives.stream import ArchiveError, UnpackedStream
from overlay.config import Limits
from overlay.errors import ErrorKind, ImageError, Reason
from overlay.storage.filenames import (
    OTHER_ARCHIVES,
    is_archive,
    is_hidden,
    is_image,
    kind_of_name,
    safe_name,
    sample_key,
)
from overlay.storage.path import StoragePath

_STREAM_BUFFER = 8 * 2**20  # bytes of one request to a bucket, where the whole archive is read

_REPEATED = Reason("duplicate name: the first member of that name is used", ErrorKind.REFUSED)

SPAN_TYPE = pa.struct(
    [
        ("method", pa.string()),
        ("offset", pa.int64()),
        ("packed", pa.int64()),
        ("size", pa.int64()),
        ("crc", pa.int64()),
    ]
)
"""Arrow type of a `Span`"""


@dataclass(frozen=True)
class ArchiveListing:
    """Images, labels and problems found in an archive."""

    members: MemberTable
    """images and masks by their relative names, in the archive's order"""
    problems: list[tuple[str | None, Reason]] = field(default_factory=list)
    """(name, reason) of each member that can't be used; the name is None for the archive as a whole"""
    labels: dict[str, str] = field(default_factory=dict)
    """WebDataset key -> label from its .cls, or else from its .json"""
    passed_over: Mapping[str, int] = field(default_factory=dict)
    """number of members whose names are not those of images"""


def list_archive(place: StoragePath, limits: Limits) -> ArchiveListing:
    """List the images of an archive; the content decides its kind, not the name.

    Raises:
        OSError: the archive's file can't be read.
    """
    members = MemberCollector()
    problems: list[tuple[str | None, Reason]] = []
    faults: list[tuple[None, Reason]] = []
    labels: dict[str, str] = {}
    passed_over = Counter[str]()
    try:
        with place.open(_STREAM_BUFFER) as file:
            for count, entry in enumerate(read_entries(file, limits), start=1):
                if count > limits.members:
                    raise ArchiveError(f"more than {limits.members} members (limits.members)", ErrorKind.TOO_LARGE)
                name = safe_name(entry.name)
                if name is None:
                    unsafe = Reason("unsafe name: absolute, or leading out of the archive", ErrorKind.REFUSED)
                    problems.append((entry.name, unsafe))
                elif entry.label is not None:
                    if name.endswith(".cls") or sample_key(name) not in labels:
                        labels[sample_key(name)] = entry.label
                elif entry.folder:
                    pass
                elif is_hidden(name):
                    passed_over[kind_of_name(name)] += 1
                elif reason := _reason(name, entry, limits):
                    problems.append((name, reason))
                elif is_image(name):
                    members.add(name, entry.span)
                else:
                    passed_over[kind_of_name(name)] += 1
    except ArchiveError as error:
        faults.append((None, error.reason))
    table, repeated = members.table()
    problems += [*((name, _REPEATED) for name in repeated), *faults]
    return ArchiveListing(table, problems, labels, passed_over)


def read_member(file: BinaryIO, span: Span) -> bytes:
    """Read one member of a zip or a plain tar, and check its size and CRC-32.

    Raises:
        ImageError: the archive is damaged at this member; the message is the reason.
        OSError: the file can't be read.
    """
    file.seek(span.offset)
    if span.method == "tar":
        data = file.read(span.size)
    else:
        header = file.read(30)
        if len(header) < 30 or not header.startswith(b"PK\3\4"):
            raise ImageError("damaged archive: the member is not where the zip's directory says")
        name, extra = struct.unpack("<HH", header[26:])
        file.seek(name + extra, 1)
        data = file.read(span.packed)
        if span.method == "deflated":
            try:
                # At most one byte more than declared: enough to detect a wrong size, and no decompression bomb.
                data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, span.size + 1)
            except zlib.error as error:
                raise ImageError(f"damaged archive: {error}") from error
    if len(data) != span.size:
        raise ImageError(f"damaged archive: the member's size is not the {span.size} bytes that were declared")
    if span.crc is not None and zlib.crc32(data) != span.crc:
        raise ImageError("damaged archive: the member's checksum is wrong")
    return data


def read_members_in_order(place: StoragePath, records: Sequence[Sequence[Span]]) -> Iterator[tuple[int, list[bytes]]]:
    """Read members of a tar that is compressed as a whole, in one pass.

    Yields the index of a record and the bytes of its members as soon as the last of them is read. So memory holds the
    incomplete records only, which `overlay.sources.read_plan.archive_passes` limits.

    Raises:
        OSError: the archive can't be read, or has changed since it was listed.
    """
    wanted: dict[Span, list[int]] = {}
    for index, spans in enumerate(records):
        for span in dict.fromkeys(spans):
            wanted.setdefault(span, []).append(index)
    arrived: dict[int, dict[Span, bytes]] = {index: {} for index in range(len(records))}
    with place.open(_STREAM_BUFFER) as file:
        try:
            stream = UnpackedStream(file, next(iter(wanted)).method)
            for span in sorted(wanted, key=lambda span: span.offset):
                stream.seek(span.offset)
                data = stream.take(span.size)
                if len(data) != span.size:
                    raise ArchiveError("it is shorter now")
                for index in wanted[span]:
                    arrived[index][span] = data
                    if len(arrived[index]) == len(set(records[index])):
                        contents = arrived.pop(index)
                        yield index, [contents[span] for span in records[index]]
        except ArchiveError as error:
            raise OSError(f"{place} has changed since it was listed: {error}") from error


def _reason(name: str, entry: ArchiveEntry, limits: Limits) -> Reason | None:
    """Return the reason why a member can't be used; None where it can, or is neither an image nor an archive."""
    if entry.link:
        return Reason("link or device within an archive: only regular files are read", ErrorKind.REFUSED)
    if is_archive(name) or name.lower().endswith(OTHER_ARCHIVES):
        return Reason("archive within an archive: give it as a source of its own", ErrorKind.REFUSED)
    if not is_image(name):
        return None
    if entry.problem:
        return entry.problem
    if max(entry.span.size, entry.span.packed) > limits.member_bytes:
        size = max(entry.span.size, entry.span.packed)
        said = f"member too large: {size} bytes, more than {limits.member_bytes} (limits.member_bytes)"
        return Reason(said, ErrorKind.TOO_LARGE)
    return None
