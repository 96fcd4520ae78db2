"""Read units of a large listing in arrays: about 30 bytes each, where objects take 250."""

from array import array
from collections.abc import Iterable, Sequence
from typing import overload

import numpy as np

from overlay.sources.read_plan import ReadUnit


class ReadUnits(Sequence[ReadUnit]):
    """Sequence of read units that makes each object when it is asked for.

    Pickled, it consists of NumPy arrays: a task that needs one unit of a million gets it out of Ray's object store
    without reading the others.
    """

    def __init__(self, units: Iterable[ReadUnit] = ()) -> None:
        self._groups, self._ends, self._largest = array("q"), array("q", [0]), array("q")
        self._in_order = array("b")
        self._positions: dict[int, tuple[int, ...]] = {}
        for unit in units:
            self.append(unit)

    def append(self, unit: ReadUnit) -> None:
        """Add a unit to the end."""
        self._groups.extend(unit.groups)
        self._ends.append(len(self._groups))
        self._largest.append(unit.largest)
        self._in_order.append(unit.in_order)
        self._positions.update(unit.positions)

    def __len__(self) -> int:
        return len(self._largest)

    @overload
    def __getitem__(self, index: int) -> ReadUnit: ...
    @overload
    def __getitem__(self, index: slice) -> list[ReadUnit]: ...
    def __getitem__(self, index: int | slice) -> ReadUnit | list[ReadUnit]:
        """Return a unit, or a list of units for a slice."""
        numbers = range(len(self))[index]
        return self._unit(numbers) if isinstance(numbers, int) else [self._unit(number) for number in numbers]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]  # as of a list

    def __getstate__(self) -> dict[str, object]:
        arrays = {name: np.array(value) for name, value in vars(self).items() if isinstance(value, array)}
        return vars(self) | arrays

    def _unit(self, number: int) -> ReadUnit:
        groups = tuple(self._groups[self._ends[number] : self._ends[number + 1]].tolist())
        positions = {group: self._positions[group] for group in groups if group in self._positions}
        return ReadUnit(groups, bool(self._in_order[number]), positions, int(self._largest[number]))
