"""Read plan: which inputs one task reads, and in which order.

Files, members of a zip and of a plain tar are read by position, in any order. A tar that is compressed as a whole is
read by one task from its start to its end, in one pass or more: so that what waits for its masks meanwhile fits into
memory, images whose masks lie too far away are left to another pass.
"""

import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from overlay.archives.entries import Span

WAITING_BYTES = 256 * 2**20
"""most that waits for its masks in one pass"""


GROUP_BYTES = 64 * 2**20
"""least that closes a group of images from an archive that is read in order"""


class Readable(Protocol):
    """What a record must say to be read."""

    @property
    def uri(self) -> str: ...  # noqa: D102
    @property
    def spans(self) -> tuple[Span, ...] | None: ...  # noqa: D102


_Record = TypeVar("_Record", bound=Readable)


@dataclass(frozen=True)
class ReadUnit:
    """What one task reads."""

    groups: tuple[int, ...]
    in_order: bool
    """whether it is a pass over an archive or a table, which can only be read in order"""
    left: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    """group -> positions in it that are to be read, where these are not all"""


def join_units(units: Sequence[ReadUnit], at_least: int, most: int) -> list[ReadUnit]:
    """Join up to ``most`` groups that any task can read into one unit, where ``at_least`` units are left all the same.

    A task costs several milliseconds, whatever it does.
    """
    together = max(1, min(most, len(units) // at_least))
    found = [unit for unit in units if unit.in_order]
    free = [unit for unit in units if not unit.in_order]
    for start in range(0, len(free), together):
        several = free[start : start + together]
        left = {group: positions for unit in several for group, positions in unit.left.items()}
        found.append(ReadUnit(tuple(group for unit in several for group in unit.groups), False, left))
    return found


def remove_done(units: Sequence[ReadUnit], done: set[int]) -> list[ReadUnit]:
    """Return the units without groups that are done."""
    left = [ReadUnit(tuple(group for group in unit.groups if group not in done), unit.in_order) for unit in units]
    return [unit for unit in left if unit.groups]


def archive_passes(records: Sequence[_Record]) -> Iterator[list[_Record]]:
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


def cut_groups(records: Sequence[_Record], rows: int) -> Iterator[list[_Record]]:
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
