from hypothesis import given
from hypothesis import strategies as st

from overlay.archives.entries import Span
from overlay.archives.member_table import MemberCollector
from overlay.archives.stream import METHODS

names = st.text(st.characters(codec=None), max_size=4)
numbers = st.integers(0, 2**62)
spans = st.builds(Span, st.sampled_from(METHODS), numbers, numbers, numbers, crc=st.none() | st.integers(0, 2**32 - 1))


@given(st.lists(st.tuples(names, spans), max_size=30))
def test_a_table_is_a_dictionary_of_the_first_member_of_each_name(members: list[tuple[str, Span]]) -> None:
    collector, expected, repeated = MemberCollector(), dict[str, Span](), list[str]()
    for name, span in members:
        collector.add(name, span)
        if name in expected:
            repeated.append(name)
        expected.setdefault(name, span)
    table, others = collector.table()
    assert others == repeated
    assert dict(table) == expected
    assert list(table) == list(expected)
    assert list(table.sorted_names()) == sorted(expected)
    assert table.sorted_names()[3:5] == sorted(expected)[3:5]
    asked = {*list(expected)[::2], "not there, by its length"}
    assert table.find(asked) == {name: expected[name] for name in asked if name in expected}
