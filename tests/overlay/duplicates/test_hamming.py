import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overlay.duplicates import hamming, multi_index
from overlay.duplicates import pairs as pairs_module
from overlay.duplicates.hamming import near_pairs, parse_hashes
from overlay.duplicates.multi_index import BITS, Hashes
from overlay.duplicates.pairs import Pairs, connected_components


def flipped(value: int, bits: set[int]) -> int:
    for bit in bits:
        value ^= 1 << bit
    return value


def words(values: list[int]) -> Hashes:
    return parse_hashes(pa.chunked_array([[value.to_bytes(32) for value in values]], pa.binary(32)))


def listed(pairs: Pairs) -> list[tuple[int, int, int]]:
    return list(zip(pairs.first.tolist(), pairs.second.tolist(), pairs.distance.tolist(), strict=True))


def by_hand(values: list[int], distance: int) -> list[tuple[int, int, int]]:
    return [
        (i, j, (values[i] ^ values[j]).bit_count())
        for i in range(len(values))
        for j in range(i + 1, len(values))
        if (values[i] ^ values[j]).bit_count() <= distance
    ]


@st.composite
def families(draw: st.DrawFn) -> list[int]:
    """Draw hashes of which many are copies, or near-copies, of others, about as far away as the limits drawn."""
    values = draw(st.lists(st.integers(0, 2**BITS - 1), min_size=1, max_size=4))
    for _ in range(draw(st.integers(0, 20))):
        origin = values[draw(st.integers(0, len(values) - 1))]
        values.append(flipped(origin, draw(st.sets(st.integers(0, BITS - 1), max_size=70))))
    return values


@pytest.mark.parametrize(("index", "part_hashes"), [(True, 10_000), (True, 4), (False, 10_000)])
@settings(max_examples=25, deadline=None)
@given(values=families(), distance=st.integers(0, 64))
def test_the_pairs_are_those_of_all_with_all(index: bool, part_hashes: int, values: list[int], distance: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hamming, "_PART_HASHES", part_hashes)
        patch.setattr(hamming, "SMALL_SEARCH", 0 if index else 10_000)
        patch.setattr(hamming, "_DENSE", 0)
        patch.setattr(multi_index, "_CANDIDATES", 3)
        assert listed(near_pairs(words(values), distance)) == by_hand(values, distance)


@pytest.mark.parametrize("distance", range(65))
def test_no_pair_can_hide_from_the_chunks(distance: int) -> None:
    chunks = multi_index.hash_chunks(distance)
    bits = np.concatenate([chunk.bits for chunk in chunks])
    assert len(set(bits.tolist())) == len(bits)
    assert sum(chunk.radius + 1 for chunk in chunks) == distance + 1


def test_a_hash_is_read_as_its_number() -> None:
    assert words([1 << 64 | 5]).tolist() == [[0, 0, 1, 5]]


def test_many_hashes_are_searched_by_the_index(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    hashes = random.integers(0, 2**64, (10_500, 4), dtype=np.uint64)
    hashes[10_000] = hashes[3] ^ np.array([2**40 - 1, 0, 0, 0], np.uint64)
    hashes[10_001] = hashes[4] ^ np.array([2**40 - 1, 1, 0, 0], np.uint64)
    hashes[10_002] = hashes[5]
    monkeypatch.setattr(hamming, "compare_all", None)
    assert listed(near_pairs(hashes, 40)) == [(3, 10_000, 40), (5, 10_002, 0)]


def test_where_most_are_alike_all_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    hashes = random.integers(0, 2**64, (300, 4), dtype=np.uint64) & np.uint64(0x0101)
    monkeypatch.setattr(hamming, "SMALL_SEARCH", 0)
    monkeypatch.setattr(hamming, "search_chunk", None)
    assert len(near_pairs(hashes, 40)) == 300 * 299 // 2


@pytest.mark.parametrize(("crowd", "part_hashes"), [(1, 10_000), (64, 10_000), (64, 4)])
@settings(max_examples=25, deadline=None)
@given(values=families(), distance=st.integers(0, 64), most=st.integers(0, 40))
def test_of_too_many_pairs_those_that_are_found_link_the_same_groups(
    crowd: int, part_hashes: int, values: list[int], distance: int, most: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hamming, "_PART_HASHES", part_hashes)
        patch.setattr(hamming, "SMALL_SEARCH", 0)
        patch.setattr(hamming, "_DENSE", 0)
        patch.setattr(multi_index, "_CANDIDATES", 3)
        patch.setattr(multi_index, "_CROWD", crowd)
        patch.setattr(pairs_module, "_RELINK", 2)
        patch.setattr(pairs_module, "MOST_PAIRS", most)
        pairs = near_pairs(words(values), distance)
    expected = by_hand(values, distance)
    assert set(listed(pairs)) <= set(expected)
    if pairs.complete:
        assert listed(pairs) == expected
    else:
        assert len(expected) > most
        every = [np.array([pair[side] for pair in expected]) for side in (0, 1)]
        groups = connected_components([(every[0], every[1])], len(values))
        # Equal up to the names of the groups.
        both = set(zip(groups, connected_components([(pairs.first, pairs.second)], len(values)), strict=True))
        assert len(both) == len(set(groups))
        assert len(pairs) == len(values) - len(set(groups))


@pytest.mark.parametrize("kinds", [1, 40])
def test_too_many_pairs_become_the_links_of_their_groups(kinds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    values = [flipped(0, {i % kinds}) for i in range(120)] + [flipped(2**200 - 1, {i}) for i in range(40)]
    monkeypatch.setattr(pairs_module, "MOST_PAIRS", 500)
    pairs = near_pairs(words(values), 40)
    assert not pairs.complete
    assert len(pairs) == 158
    assert set(listed(pairs)) <= set(by_hand(values, 40))
    components = connected_components([(pairs.first, pairs.second)], 160)
    assert len(set(components[:120])) == len(set(components[120:])) == 1
    assert components[0] != components[-1]


def test_no_hash_and_one() -> None:
    assert listed(near_pairs(words([7]), 40)) == []
    assert listed(near_pairs(np.zeros((0, 4), np.uint64), 40)) == []


def test_parts_that_are_merged_keep_a_link_that_two_of_them_have_at_its_distance(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pairs_module, "MOST_PAIRS", 1)
    links = Pairs(np.array([0, 1]), np.array([1, 2]), np.array([3, 5], np.uint8), complete=False)
    merged = pairs_module.merge_pairs([links, links], 4)
    assert listed(merged) == [(0, 1, 3), (1, 2, 5)]
    assert not merged.complete
