"""Bounded reading of images and masks from files, archives and tables.

Files, and members of a zip or a plain tar, are read by position, so that any task can read any of them. A tar that is
compressed as a whole is read sequentially: one task reads it, and yields an image when its last mask is read. A table
of images is read by one task for each of its row groups.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice
from types import TracebackType
from typing import BinaryIO, Protocol

from overlay.archives.index import read_member, read_members_in_order
from overlay.config import Limits
from overlay.errors import ErrorKind, ImageError, Reason, RequestError, one_line
from overlay.images.ref import ImageRef, ReadFunction
from overlay.sources import parquet_images
from overlay.sources.inputs import IRREGULAR
from overlay.sources.parquet_images import EMBEDDED_MASK
from overlay.sources.read_plan import ReadUnit
from overlay.storage.filenames import impossible_name
from overlay.storage.path import NotRegularFileError, StoragePath

Contents = Sequence[bytes | None]
"""bytes of an image and then of its masks; None for the file of a mask to which a table refers, which is still to be
read"""
UNREADABLE = "file that can't be read"
"""prefix of the reason of an error of the kind `ErrorKind.UNREADABLE`"""


class GroupReader(Protocol):
    """Interface of a manifest for reading its images."""

    def read_group(self, group: int, columns: Sequence[str] | None = None) -> list[ImageRef]:
        """Read the rows of a group; see `Manifest.read_group`."""


@dataclass(frozen=True)
class GroupRequest:
    """Request to decode one group of a manifest."""

    group: int
    positions: Sequence[int] | None = None
    """rows of the group to be decoded, counted from 0; None for all"""
    contents: Sequence[Contents] | None = None
    """bytes of the image and the masks of each row, where they were read in order; else None"""
    fault: Reason | None = None
    """reason why reading in order failed"""


def group_requests(unit: ReadUnit, manifest: GroupReader) -> Iterator[GroupRequest]:
    """Yield a request for each group of a unit, with its contents, or a fault, where it is read in order."""
    waiting = {group: unit.positions.get(group) for group in unit.groups}
    fault: Reason | None = None
    try:
        for group, contents in read_in_order(manifest, unit) if unit.in_order else ():
            yield GroupRequest(group, waiting.pop(group), contents)
    except OSError as error:
        fault = unreadable(error)
    except ImageError as error:
        fault = error.reason
    for group, positions in waiting.items():
        yield GroupRequest(group, positions, fault=fault)


def unreadable(error: OSError) -> Reason:
    """Return the reason of an input that a fault of a disk or a network keeps from being read."""
    return Reason(f"{UNREADABLE}: {one_line(error)}", ErrorKind.UNREADABLE)


def read_in_order(manifest: GroupReader, unit: ReadUnit) -> Iterator[tuple[int, list[Contents]]]:
    """Read an archive or a table in order, and yield each group's number with the bytes of its images and masks.

    Raises:
        ImageError: the table is damaged.
        OSError: the manifest, the archive or the table can't be read, or has changed since it was listed.
    """
    groups: dict[int, list[ImageRef]] = {}
    for group in unit.groups:
        rows = manifest.read_group(group, ["uri", "member", "masks", "spans"])
        groups[group] = [rows[position] for position in unit.positions.get(group, range(len(rows)))]
    refs = [ref for group in groups.values() for ref in group]
    place = StoragePath(refs[0].uri)
    if refs[0].spans is None:
        yield from _read_table(place, groups)
        return
    records = [ref.spans or () for ref in refs]
    group_of = [group for group, rows in groups.items() for _ in rows]
    left = {group: len(rows) for group, rows in groups.items()}
    first = dict(zip(groups, accumulate(left.values(), initial=0), strict=False))
    read: dict[int, Contents] = {}
    for index, contents in read_members_in_order(place, records):
        read[index] = contents
        group = group_of[index]
        left[group] -= 1
        if not left[group]:
            yield group, [read.pop(row) for row in range(first[group], first[group] + len(groups[group]))]


def _read_table(place: StoragePath, groups: dict[int, list[ImageRef]]) -> Iterator[tuple[int, list[Contents]]]:
    refs = [ref for group in groups.values() for ref in group]
    masks = any(EMBEDDED_MASK in ref.masks for ref in refs)
    contents = parquet_images.read_images(place, [int(ref.member or 0) for ref in refs], masks=masks)
    for group, rows in groups.items():
        found: list[Contents] = []
        for ref, (image, *embedded) in zip(rows, islice(contents, len(rows)), strict=True):
            masks_of_ref = [embedded[0] or b"" if name == EMBEDDED_MASK else None for name in ref.masks]
            found.append([image or b"", *masks_of_ref])
        yield group, found


class Reader:
    """Reader of images and masks of at most ``member_bytes`` bytes, which keeps the last archive open."""

    def __init__(self, member_bytes: int = Limits.member_bytes) -> None:
        self._member_bytes = member_bytes
        self._archive: tuple[str, BinaryIO] | None = None
        self._file: tuple[str, bytes] | None = None

    def __enter__(self) -> "Reader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._archive:
            self._archive[1].close()

    def read_function(self, ref: ImageRef, contents: Contents | None = None) -> ReadFunction:
        """Return the function that reads an image and its masks by their names; from ``contents``, where given."""
        names = [ref.name, *ref.masks]
        if contents is not None:
            known = {name: data for name, data in zip(names, contents, strict=True) if data is not None}
            return lambda name: known[name] if name in known else read_bytes(name, self._member_bytes)
        if ref.spans is None:
            return self._read_frames_of if ref.frame is not None else lambda name: read_bytes(name, self._member_bytes)
        spans = dict(zip(names, ref.spans, strict=True))
        return lambda name: read_member(self._open(ref.uri), spans[name])

    def _read_frames_of(self, name: str) -> bytes:
        """Read a file of several frames, which come one after the other."""
        if self._file is None or self._file[0] != name:
            self._file = (name, read_bytes(name, self._member_bytes))
        return self._file[1]

    def _open(self, uri: str) -> BinaryIO:
        if self._archive is None or self._archive[0] != uri:
            self.__exit__(None, None, None)
            try:
                self._archive = (uri, StoragePath(uri).open())
            except FileNotFoundError as error:
                raise ImageError(f"{UNREADABLE}: {error.strerror}", ErrorKind.UNREADABLE) from error
        return self._archive[1]


def read_bytes(uri: str, limit: int = Limits.member_bytes) -> bytes:
    """Read a file of at most ``limit`` bytes.

    Raises:
        ImageError: the file does not exist, is larger, or is not a regular file, no file can have its name, or its
            permissions forbid reading.
        OSError: the file can't be read for a transient cause.
    """
    try:
        data = StoragePath(uri).read_bytes(limit + 1)
    except (FileNotFoundError, PermissionError) as error:
        raise ImageError(f"{UNREADABLE}: {error.strerror}", ErrorKind.UNREADABLE) from error
    except RequestError as error:
        raise ImageError(one_line(error), ErrorKind.REFUSED) from error
    except (ValueError, OSError) as error:  # a NUL in a name is a ValueError
        if said := impossible_name(uri):
            raise ImageError(said, ErrorKind.REFUSED) from error
        if isinstance(error, NotRegularFileError | IsADirectoryError):
            raise ImageError(IRREGULAR, IRREGULAR.kind) from error
        raise
    if len(data) > limit:
        raise ImageError(f"file too large: more than {limit} bytes (limits.member_bytes)", ErrorKind.TOO_LARGE)
    return data
