"""In which order images are read, and the bytes of each image and its masks, wherever they lie.

Files, members of a zip and of a plain tar are read by position, so any task can read any of them. A tar that is
compressed as a whole gives up its members only from its start to its end: one task reads it, once, and hands an image
on when its last mask has come. So that what waits meanwhile fits into memory, images whose masks lie too far away are
left to another pass over the archive. A table of images is read by one task for each of its row groups.
"""

import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, islice
from types import TracebackType
from typing import Any, BinaryIO, Generic, Protocol, TypeVar

from overlay import image_columns
from overlay.archives.entries import Span
from overlay.archives.index import read_member, read_members_in_order
from overlay.errors import ImageError, one_line
from overlay.storage.parquet import open_parquet
from overlay.storage.path import Place

WAITING_BYTES = 256 * 2**20
"""most that waits for its masks in one pass"""
GROUP_BYTES = 64 * 2**20
"""least that closes a group of images from an archive that is read in order"""

UNREADABLE = "file that can't be read"
"""what a reason says that may pass, unlike those of the image itself"""

Read = Callable[[str], bytes]
"""from the name of an image or a mask, as its row has it, to its bytes; raises ImageError or OSError"""


class Readable(Protocol):
    """What a record must say to be read."""

    @property
    def uri(self) -> str: ...  # noqa: D102
    @property
    def spans(self) -> tuple[Span, ...] | None: ...  # noqa: D102


_Record = TypeVar("_Record", bound=Readable)


class GroupReader(Protocol):
    """A manifest, as those see it who read its images."""

    def read_group(self, group: int, columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """Read the rows of a group."""


@dataclass(frozen=True)
class OneFile:
    """A manifest that is one file."""

    place: Place

    def read_group(self, group: int, columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """Read the rows of a row group."""
        rows: list[dict[str, Any]] = open_parquet(self.place).read_row_group(group, columns=columns).to_pylist()
        return rows


@dataclass(frozen=True)
class Unit:
    """What one task reads."""

    groups: tuple[int, ...]
    in_order: bool
    """whether it is a pass over an archive or a table, which can only be read in order"""
    left: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    """group -> positions in it that are to be read, where these are not all"""


@dataclass(frozen=True)
class Plan(Generic[_Record]):
    """The records in the order of reading."""

    groups: list[list[_Record]]
    """the row groups of the manifest"""
    units: list[Unit]


def plan(records: Sequence[_Record], rows: int) -> Plan[_Record]:
    """Divide records into groups of at most ``rows``, and groups among the tasks that read them."""
    at_once: list[_Record] = []
    in_order: dict[str, list[_Record]] = {}
    for record in records:
        if record.spans and record.spans[0].in_order_only:
            in_order.setdefault(record.uri, []).append(record)
        else:
            at_once.append(record)
    groups = [at_once[start : start + rows] for start in range(0, len(at_once), rows)]
    units = [Unit((group,), in_order=False) for group in range(len(groups))]
    for of_one_archive in in_order.values():
        for one_pass in passes(of_one_archive):
            more = list(cut(one_pass, rows))
            units.append(Unit(tuple(range(len(groups), len(groups) + len(more))), in_order=True))
            groups += more
    return Plan(groups, units)


def joined(units: Sequence[Unit], at_least: int, most: int) -> list[Unit]:
    """Join up to ``most`` groups that any task can read into one unit, where ``at_least`` units are left all the same.

    A task costs several milliseconds, whatever it does.
    """
    together = max(1, min(most, len(units) // at_least))
    found = [unit for unit in units if unit.in_order]
    free = [unit for unit in units if not unit.in_order]
    for start in range(0, len(free), together):
        several = free[start : start + together]
        left = {group: positions for unit in several for group, positions in unit.left.items()}
        found.append(Unit(tuple(group for unit in several for group in unit.groups), False, left))
    return found


def without(units: Sequence[Unit], done: set[int]) -> list[Unit]:
    """Return the units without groups that are done."""
    left = [Unit(tuple(group for group in unit.groups if group not in done), unit.in_order) for unit in units]
    return [unit for unit in left if unit.groups]


def rows_of(unit: Unit, manifest: GroupReader) -> Iterator[dict[str, Any]]:
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


def read_in_order(manifest: GroupReader, unit: Unit) -> Iterator[tuple[int, list[list[bytes]]]]:
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
        images = image_columns.contents(Place(uri), [int(row["member"]) for rows in groups.values() for row in rows])
        for group, rows in groups.items():
            yield group, [[data or b""] for data in islice(images, len(rows))]
        return
    records = [[Span(**span) for span in row["spans"]] for rows in groups.values() for row in rows]
    group_of = [group for group, rows in groups.items() for _ in rows]
    left = {group: len(rows) for group, rows in groups.items()}
    first = dict(zip(groups, accumulate(left.values(), initial=0), strict=False))
    read: dict[int, list[bytes]] = {}
    for index, contents in read_members_in_order(Place(uri), records):
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
                self._archive = (uri, Place(uri).open())
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
        return Place(uri).read_bytes()
    except (FileNotFoundError, PermissionError) as error:
        raise ImageError(f"{UNREADABLE}: {error.strerror}") from error


def passes(records: Sequence[_Record]) -> Iterator[list[_Record]]:
    """Divide the records of an archive among passes over it, each in the order in which they become complete."""
    left = sorted(records, key=lambda record: _ends(record)[0])
    while left:
        waiting: list[tuple[int, int]] = []  # (end, bytes) of records of which something has come
        held = 0
        chosen, later = [], []
        for record in left:
            start, end = _ends(record)
            while waiting and waiting[0][0] < start:
                held -= heapq.heappop(waiting)[1]
            size = _size(record)
            if waiting and held + size > WAITING_BYTES:
                later.append(record)
                continue
            heapq.heappush(waiting, (end, size))
            held += size
            chosen.append(record)
        yield sorted(chosen, key=lambda record: _ends(record)[1])
        left = later


def cut(records: Sequence[_Record], rows: int) -> Iterator[list[_Record]]:
    """Divide the records of a pass into groups of at most ``rows``, and fewer where their images are large."""
    group: list[_Record] = []
    for record in records:
        group.append(record)
        if len(group) == rows or sum(map(_size, group)) >= GROUP_BYTES:
            yield group
            group = []
    if group:
        yield group


def _ends(record: Readable) -> tuple[int, int]:
    """Return the offsets of a record's first and last member."""
    offsets = [span.offset for span in record.spans or ()]
    return min(offsets), max(offsets)


def _size(record: Readable) -> int:
    return sum(span.size for span in record.spans or ())
