"""Bounded reading of images and masks, wherever they lie: files, archives, tables.

Files, members of a zip and of a plain tar are read by position, so any task can read any of them. A tar that is
compressed as a whole yields its members only from its start to its end: one task reads it, once, and hands an image on
when its last mask has come. A table of images is read by one task for each of its row groups.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice
from types import TracebackType
from typing import BinaryIO, Protocol

from overlay.archives.index import read_member, read_members_in_order
from overlay.config import Limits
from overlay.errors import ImageError, one_line
from overlay.images.ref import ImageRef
from overlay.sources import parquet_images
from overlay.sources.inputs import IRREGULAR
from overlay.sources.read_plan import ReadUnit
from overlay.storage.path import NotRegularFileError, Read, StoragePath

UNREADABLE = "file that can't be read"
"""what a reason says that may pass, unlike those of the image itself"""


class GroupReader(Protocol):
    """A manifest, as seen by what reads its images."""

    def read_group(self, group: int, columns: Sequence[str] | None = None) -> list[ImageRef]:
        """Read the rows of a group."""


@dataclass(frozen=True)
class GroupRequest:
    """A group of the manifest to be decoded."""

    group: int
    positions: Sequence[int] | None = None
    """rows of the group that are wanted, counted from 0; None where all are"""
    contents: Sequence[Sequence[bytes]] | None = None
    """bytes of the image and the masks of each of them, where they were read already"""
    fault: str | None = None
    """reason why they could not be read, where they should have been"""


def group_requests(unit: ReadUnit, manifest: GroupReader) -> Iterator[GroupRequest]:
    """Yield each group of a unit, with its contents where it is read in order, or why they can't be read."""
    waiting = {group: unit.left.get(group) for group in unit.groups}
    fault = None
    try:
        for group, contents in read_in_order(manifest, unit) if unit.in_order else ():
            yield GroupRequest(group, waiting.pop(group), contents)
    except OSError as error:
        fault = f"{UNREADABLE}: {one_line(error)}"
    for group, positions in waiting.items():
        yield GroupRequest(group, positions, fault=fault)


def read_in_order(manifest: GroupReader, unit: ReadUnit) -> Iterator[tuple[int, list[list[bytes]]]]:
    """Read an archive or a table in order, and yield each group's number with the bytes of its images and masks.

    Raises:
        OSError: it can't be read.
    """
    groups: dict[int, list[ImageRef]] = {}
    for group in unit.groups:
        rows = manifest.read_group(group, ["uri", "member", "spans"])
        groups[group] = [rows[position] for position in unit.left.get(group, range(len(rows)))]
    refs = [ref for group in groups.values() for ref in group]
    place = StoragePath(refs[0].uri)
    if refs[0].spans is None:
        images = parquet_images.read_images(place, [int(ref.member or 0) for ref in refs])
        for group, rows in groups.items():
            yield group, [[data or b""] for data in islice(images, len(rows))]
        return
    records = [ref.spans or () for ref in refs]
    group_of = [group for group, rows in groups.items() for _ in rows]
    left = {group: len(rows) for group, rows in groups.items()}
    first = dict(zip(groups, accumulate(left.values(), initial=0), strict=False))
    read: dict[int, list[bytes]] = {}
    for index, contents in read_members_in_order(place, records):
        read[index] = contents
        group = group_of[index]
        left[group] -= 1
        if not left[group]:
            yield group, [read.pop(row) for row in range(first[group], first[group] + len(groups[group]))]


class Reader:
    """Reads images and masks, and keeps the archive open that it read from last."""

    def __init__(self, member_bytes: int = Limits.member_bytes) -> None:
        self._member_bytes = member_bytes
        self._archive: tuple[str, BinaryIO] | None = None

    def __enter__(self) -> "Reader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._archive:
            self._archive[1].close()

    def of(self, ref: ImageRef, contents: Sequence[bytes] | None = None) -> Read:
        """Return how to read an image and its masks by their names; ``contents`` are read already."""
        names = [ref.name, *ref.masks]
        if contents is not None:
            return dict(zip(names, contents, strict=True)).__getitem__
        if ref.spans is None:
            return lambda name: read_bytes(name, self._member_bytes)
        spans = dict(zip(names, ref.spans, strict=True))
        return lambda name: read_member(self._open(ref.uri), spans[name])

    def _open(self, uri: str) -> BinaryIO:
        if self._archive is None or self._archive[0] != uri:
            self.__exit__(None, None, None)
            try:
                self._archive = (uri, StoragePath(uri).open())
            except FileNotFoundError as error:
                raise ImageError(f"{UNREADABLE}: {error.strerror}") from error
        return self._archive[1]


def read_bytes(uri: str, limit: int = Limits.member_bytes) -> bytes:
    """Read a file of at most ``limit`` bytes.

    Raises:
        ImageError: it is not there, may not be read, is larger, or is no regular file.
        OSError: it can't be read for a cause that may pass.
    """
    try:
        data = StoragePath(uri).read_bytes(limit + 1)
    except (FileNotFoundError, PermissionError) as error:
        raise ImageError(f"{UNREADABLE}: {error.strerror}") from error
    except (NotRegularFileError, IsADirectoryError) as error:
        raise ImageError(IRREGULAR) from error
    if len(data) > limit:
        raise ImageError(f"file too large: more than {limit} bytes (limits.member_bytes)")
    return data
