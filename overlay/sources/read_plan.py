"""Read plan: inputs that one task reads, and their order.

Files, and members of a zip or a plain tar, are read by position, in any order. A tar that is compressed as a whole is
read by one task sequentially, in one or more passes: images that wait for their masks must fit into memory, so images
whose masks are too far away are deferred to another pass.
"""

import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Protocol, TypeVar

from overlay.archives.entries import Span

WAITING_BYTES = 256 * 2**20
"""most bytes of incomplete records (images and masks) in one pass"""
GROUP_BYTES = 64 * 2**20
"""bytes of images and masks at which a group of an archive that is read in order is closed"""


class Readable(Protocol):
    """Record of an image and its masks with their positions, such as `ImageRef`."""

    @property
    def uri(self) -> str: ...  # noqa: D102
    @property
    def spans(self) -> tuple[Span, ...] | None: ...  # noqa: D102


_Record = TypeVar("_Record", bound=Readable)


@dataclass(frozen=True)
class ReadUnit:
    """Groups of a manifest that one task reads."""

    groups: tuple[int, ...]
    in_order: bool
    """whether the unit is one sequential pass over an archive or a table"""
    positions: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    """group -> positions in it to be read, counted from 0, where these are not all"""
    largest: int = 0
    """bytes of the largest image, as far as sizes are known"""


def join_units(units: Sequence[ReadUnit], at_least: int, most: int) -> list[ReadUnit]:
    """Join up to ``most`` units that are not read in order into one, as long as about ``at_least`` units are left.

    Each task has an overhead of several milliseconds.
    """
    together = max(1, min(most, len(units) // at_least))
    found = [unit for unit in units if unit.in_order]
    free = (unit for unit in units if not unit.in_order)
    while several := list(islice(free, together)):
        positions = {group: rows for unit in several for group, rows in unit.positions.items()}
        groups = tuple(group for unit in several for group in unit.groups)
        found.append(ReadUnit(groups, False, positions, max(unit.largest for unit in several)))
    return found


def remove_done(units: Sequence[ReadUnit], done: set[int]) -> list[ReadUnit]:
    """Return the units without the groups in ``done``."""
    left = [replace(unit, groups=tuple(group for group in unit.groups if group not in done)) for unit in units]
    return [unit for unit in left if unit.groups]


def archive_passes(records: Sequence[_Record]) -> Iterator[list[_Record]]:
    """Divide the records of an archive into passes over it, each sorted by the position where a record is complete."""
    left = sorted(records, key=lambda record: _offsets(record)[0])
    while left:
        waiting: list[tuple[int, int]] = []  # heap of (end, bytes) of incomplete records
        waiting_bytes = 0
        chosen, later = [], []
        for record in left:
            start, end = _offsets(record)
            while waiting and waiting[0][0] < start:
                waiting_bytes -= heapq.heappop(waiting)[1]
            size = _size(record)
            if waiting and waiting_bytes + size > WAITING_BYTES:
                later.append(record)
                continue
            heapq.heappush(waiting, (end, size))
            waiting_bytes += size
            chosen.append(record)
        yield sorted(chosen, key=lambda record: _offsets(record)[1])
        left = later


def cut_groups(records: Sequence[_Record], rows: int) -> Iterator[list[_Record]]:
    """Divide the records of a pass into groups of at most ``rows`` records, fewer where these are large."""
    group: list[_Record] = []
    for record in records:
        group.append(record)
        if len(group) == rows or sum(map(_size, group)) >= GROUP_BYTES:
            yield group
            group = []
    if group:
        yield group


def _offsets(record: Readable) -> tuple[int, int]:
    """Return the byte offsets of a record's first and last member."""
    offsets = [span.offset for span in record.spans or ()]
    return min(offsets), max(offsets)


def _size(record: Readable) -> int:
    return sum(span.size for span in record.spans or ())
