"""In which order images are read, and the bytes of each image and its masks, wherever they lie.

Files, members of a zip and of a plain tar are read by position, so any task can read any of them. A tar that is
compressed as a whole gives up its members only from its start to its end: one task reads it, once, and hands an image
on when its last mask has come. So that what waits meanwhile fits into memory, images whose masks lie too far away are
left to another pass over the archive. A table of images is read by one task for each of its row groups.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice
from types import TracebackType
from typing import Any, BinaryIO, Protocol

from overlay.archives.entries import Span
from overlay.archives.index import read_member, read_members_in_order
from overlay.errors import ImageError, one_line
from overlay.sources import parquet_images
from overlay.sources.read_plan import ReadUnit
from overlay.storage.parquet import open_parquet
from overlay.storage.path import Read, StoragePath

UNREADABLE = "file that can't be read"
"""what a reason says that may pass, unlike those of the image itself"""


class GroupReader(Protocol):
    """A manifest, as those see it who read its images."""

    def read_group(self, group: int, columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """Read the rows of a group."""


@dataclass(frozen=True)
class OneFile:
    """A manifest that is one file."""

    place: StoragePath

    def read_group(self, group: int, columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """Read the rows of a row group."""
        rows: list[dict[str, Any]] = open_parquet(self.place).read_row_group(group, columns=columns).to_pylist()
        return rows


def rows_of(unit: ReadUnit, manifest: GroupReader) -> Iterator[dict[str, Any]]:
    """Yield each group of a unit: its number, the ``positions`` that are wanted, and the ``contents`` where it is read
    in order; a ``fault`` stands in place of contents that can't be read.
    """
    waiting = {group: unit.left.get(group) for group in unit.groups}
    blank: dict[str, Any] = {"contents": None, "fault": None}
    try:
        for group, contents in read_in_order(manifest, unit) if unit.in_order else ():
            yield blank | {"group": group, "positions": waiting.pop(group), "contents": contents}
    except OSError as error:
        blank["fault"] = f"{UNREADABLE}: {one_line(error)}"
    for group, positions in waiting.items():
        yield blank | {"group": group, "positions": positions}


def read_in_order(manifest: GroupReader, unit: ReadUnit) -> Iterator[tuple[int, list[list[bytes]]]]:
    """Read an archive or a table in order, and yield each group's number with the bytes of its images and masks.

    Raises:
        OSError: it can't be read.
    """
    groups: dict[int, list[dict[str, Any]]] = {}
    for group in unit.groups:
        rows = manifest.read_group(group, ["uri", "member", "spans"])
        groups[group] = [rows[position] for position in unit.left.get(group, range(len(rows)))]
    uri = next(iter(groups.values()))[0]["uri"]
    if next(iter(groups.values()))[0]["spans"] is None:
        images = parquet_images.read_images(
            StoragePath(uri), [int(row["member"]) for rows in groups.values() for row in rows]
        )
        for group, rows in groups.items():
            yield group, [[data or b""] for data in islice(images, len(rows))]
        return
    records = [[Span(**span) for span in row["spans"]] for rows in groups.values() for row in rows]
    group_of = [group for group, rows in groups.items() for _ in rows]
    left = {group: len(rows) for group, rows in groups.items()}
    first = dict(zip(groups, accumulate(left.values(), initial=0), strict=False))
    read: dict[int, list[bytes]] = {}
    for index, contents in read_members_in_order(StoragePath(uri), records):
        read[index] = contents
        group = group_of[index]
        left[group] -= 1
        if not left[group]:
            yield group, [read.pop(row) for row in range(first[group], first[group] + len(groups[group]))]


class Reader:
    """Reads images and masks, and keeps the archive open that it read from last."""

    def __init__(self) -> None:
        self._archive: tuple[str, BinaryIO] | None = None

    def __enter__(self) -> "Reader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._archive:
            self._archive[1].close()

    def of(self, row: dict[str, Any], contents: Sequence[bytes] | None = None) -> Read:
        """Return how to read the image and the masks of a row of the manifest; ``contents`` are read already."""
        names = [row["member"], *row["masks"]]
        if contents is not None:
            return dict(zip(names, contents, strict=True)).__getitem__
        if row["spans"] is None:
            return read_file
        spans = {name: Span(**span) for name, span in zip(names, row["spans"], strict=True)}
        return lambda name: read_member(self._open(row["uri"]), spans[name])

    def _open(self, uri: str) -> BinaryIO:
        if self._archive is None or self._archive[0] != uri:
            self.__exit__(None, None, None)
            try:
                self._archive = (uri, StoragePath(uri).open())
            except FileNotFoundError as error:
                raise ImageError(f"{UNREADABLE}: {error.strerror}") from error
        return self._archive[1]


def read_file(uri: str) -> bytes:
    """Read a file.

    Raises:
        ImageError: it is not there, or may not be read.
        OSError: it can't be read for a cause that may pass.
    """
    try:
        return StoragePath(uri).read_bytes()
    except (FileNotFoundError, PermissionError) as error:
        raise ImageError(f"{UNREADABLE}: {error.strerror}") from error
