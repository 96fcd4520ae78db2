import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.sources.read_plan import ReadUnit
from overlay.sources.read_units import ReadUnits


@st.composite
def lists_of_units(draw: st.DrawFn) -> list[ReadUnit]:
    """Units as a listing has them: each group is in one of them."""
    found, group = list[ReadUnit](), 0
    for groups in draw(st.lists(st.integers(1, 4), max_size=12)):
        own = tuple(range(group, group + groups))
        part = draw(st.sets(st.sampled_from(own)))
        positions = {each: tuple(draw(st.lists(st.integers(0, 31), max_size=3))) for each in part}
        found.append(ReadUnit(own, draw(st.booleans()), positions, draw(st.integers(0, 2**40))))
        group += groups
    return found


@given(lists_of_units(), st.data())
def test_units_come_back_as_they_were(units: list[ReadUnit], data: st.DataObject) -> None:
    packed = ReadUnits(units)
    there = pickle.loads(pickle.dumps(packed, protocol=5))
    for each in (packed, there):
        assert len(each) == len(units)
        assert list(each) == units
        assert each == units
        chosen = data.draw(st.slices(len(units)))
        assert each[chosen] == units[chosen]
    if units:
        assert packed[-1] == units[-1]
    assert packed != [*units, ReadUnit((99,), False)]


def test_an_index_beyond_the_end() -> None:
    with pytest.raises(IndexError):
        ReadUnits([ReadUnit((0,), False)])[1]


def test_a_task_gets_arrays_that_it_need_not_copy() -> None:
    """Of 100,000 units nothing is in the pickle itself, and 25 bytes each are in buffers beside it."""
    units = ReadUnits(ReadUnit((number,), False, largest=300_000) for number in range(100_000))
    buffers = list[pickle.PickleBuffer]()
    data = pickle.dumps(units, protocol=5, buffer_callback=buffers.append)
    assert len(data) < 1000
    assert sum(buffer.raw().nbytes for buffer in buffers) == 25 * 100_000 + 8
    assert pickle.loads(data, buffers=buffers)[77_777] == ReadUnit((77_777,), False, largest=300_000)
