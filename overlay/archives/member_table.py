"""Table of an archive's members in packed arrays: 41 bytes a member and its name, for millions of them."""

from array import array
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from overlay.archives.entries import Span
from overlay.archives.stream import METHODS

_NO_CRC = -1
_BLOCK = 1024
# Names of a tar may hold lone surrogates, for bytes that are not UTF-8.
_ENCODING = ("utf-8", "surrogatepass")


class MemberTable(Mapping[str, Span]):
    """Spans of an archive's members by their names, in the archive's order.

    Each lookup passes over the whole table: ask for many names at once, by `find`.
    """

    def __init__(self, names: pa.LargeBinaryArray, methods: NDArray[np.uint8], numbers: NDArray[np.int64]) -> None:
        """``methods``: (n,) place of each span's method in `METHODS`; ``numbers``: (n, 4) its other fields."""
        self._names = names
        self._methods = methods
        self._numbers = numbers

    def __getitem__(self, name: str) -> Span:
        return self.find([name])[name]

    def __iter__(self) -> Iterator[str]:
        return iter(_Names(self._names))

    def __len__(self) -> int:
        return len(self._names)

    def sorted_names(self) -> Sequence[str]:
        """Return the names in the order of their code points; each is decoded where it is asked for."""
        return _Names(self._names.take(pc.sort_indices(self._names)))

    def find(self, names: Collection[str]) -> dict[str, Span]:
        """Return the spans of those of ``names`` that are members, by one pass over the table."""
        ordered = list(names)
        wanted = pa.array([name.encode(*_ENCODING) for name in ordered], pa.large_binary())
        places = pc.index_in(self._names, wanted)
        rows = pc.indices_nonzero(pc.is_valid(places)).to_pylist()
        return {
            ordered[place]: self._span(row) for place, row in zip(places.drop_null().to_pylist(), rows, strict=True)
        }

    def _span(self, row: int) -> Span:
        offset, packed, size, crc = self._numbers[row].tolist()
        return Span(METHODS[self._methods[row]], offset, packed, size, None if crc == _NO_CRC else crc)


class MemberCollector:
    """Collector of the members of an archive while it is scanned."""

    def __init__(self) -> None:
        self._names = bytearray()
        self._ends = array("q", [0])
        self._methods = array("B")
        self._numbers = array("q")

    def add(self, name: str, span: Span) -> None:
        """Add a member; its name may be there already."""
        self._names += name.encode(*_ENCODING)
        self._ends.append(len(self._names))
        self._methods.append(METHODS.index(span.method))
        self._numbers.extend((span.offset, span.packed, span.size, _NO_CRC if span.crc is None else span.crc))

    def table(self) -> tuple[MemberTable, list[str]]:
        """Return the first member of each name, and the names of the others in their order."""
        buffers = [None, pa.py_buffer(self._ends), pa.py_buffer(self._names)]
        names = pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(self._methods), buffers)
        methods = np.frombuffer(self._methods, np.uint8)
        numbers = np.frombuffer(self._numbers, np.int64).reshape(-1, 4)
        repeated = _repeated(names)
        if not repeated.any():
            return MemberTable(names, methods, numbers), []
        others = list(_Names(names.filter(pa.array(repeated))))
        return MemberTable(names.filter(pa.array(~repeated)), methods[~repeated], numbers[~repeated]), others


def _repeated(names: pa.LargeBinaryArray) -> NDArray[np.bool_]:
    """Return which names another one before them equals, (n,)."""
    repeated = np.zeros(len(names), bool)
    if len(names) > 1:
        order = pc.sort_indices(names)  # stable: the first of equal names stays the first of them
        ordered = names.take(order)
        repeated[order[1:].filter(pc.equal(ordered[1:], ordered[:-1]))] = True
    return repeated


class _Names(Sequence[str]):
    """Names as Arrow has them, decoded one by one."""

    def __init__(self, names: pa.LargeBinaryArray) -> None:
        self._names = names

    def __len__(self) -> int:
        return len(self._names)

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> list[str]: ...
    def __getitem__(self, place: int | slice) -> str | list[str]:
        if isinstance(place, slice):
            return [name.decode(*_ENCODING) for name in self._names[place].to_pylist()]
        name: bytes = self._names[place].as_py()
        return name.decode(*_ENCODING)

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), _BLOCK):
            yield from self[start : start + _BLOCK]
