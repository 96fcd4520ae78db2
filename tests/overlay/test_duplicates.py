from typing import Any

import pyarrow as pa
import pytest

from overlay.config import Prepare, Split
from overlay.division import divide, settle
from overlay.duplicates import DUPLICATES_SCHEMA, Duplicates, Leaks, find, join, leaks
from overlay.errors import RequestError, WorkError
from overlay.hamming import near_pairs, parse

FAR = [0, 2**64 - 1, 2**128 - 2**64, 2**192 - 2**128, 2**256 - 2**192]
"""numbers that are 64 or 128 bits apart"""


def row(id: str, label: str, value: int, pixels: str | None = None) -> dict[str, Any]:
    return {"id": id, "label": label, "phash": f"{value:064x}", "pixels": pixels or id, "group": id}


ROWS = [
    row("a/1", "a", FAR[0], "same"),
    row("a/2", "a", FAR[0] | 0b111),
    row("a/3", "a", FAR[1]),
    row("b/1", "b", FAR[0], "same"),
    row("b/2", "b", FAR[1] ^ 0b1),
    row("b/3", "b", FAR[2]),
]


def found(distance: int = 40) -> Duplicates:
    return find(ROWS, distance)


def test_each_pair_is_one_row() -> None:
    table = found().table()
    assert table.schema == DUPLICATES_SCHEMA
    assert [tuple(each.values()) for each in table.to_pylist()] == [
        ("a/1", "a/2", 3, False, "a", "a"),
        ("a/1", "b/1", 0, True, "a", "b"),
        ("a/2", "b/1", 3, False, "a", "b"),
        ("a/3", "b/2", 1, False, "a", "b"),
    ]


def test_nothing_alike_is_an_empty_table() -> None:
    table = find([ROWS[0], ROWS[2], ROWS[5]], 40).table()
    assert table.num_rows == 0
    assert table.schema == DUPLICATES_SCHEMA
    assert isinstance(table, pa.Table)


def test_conflicts_come_first_and_are_described() -> None:
    duplicates = found()
    assert [duplicates.describe(int(pair)) for pair in duplicates.conflicts_first()] == [
        "a/1 (a) and b/1 (b): identical pixels",
        "a/3 (a) and b/2 (b): distance 1",
        "a/2 (a) and b/1 (b): distance 3",
        "a/1 (a) and a/2 (a): distance 3",
    ]


def test_the_reason_names_the_nearest_contradiction() -> None:
    assert found().contradicted() == {
        "a/1": "label conflict: b/1 is b (identical pixels)",
        "b/1": "label conflict: a/1 is a (identical pixels)",
        "a/3": "label conflict: b/2 is b (distance 1)",
        "b/2": "label conflict: a/3 is a (distance 1)",
        "a/2": "label conflict: b/1 is b (distance 3)",
    }


def test_groups_are_links_of_links_and_the_users_own() -> None:
    pairs = near_pairs(parse([f"{value:064x}" for value in (FAR[0], FAR[1], FAR[0] | 1, FAR[1] | 2**70, FAR[2])]), 40)
    assert join(["p", "q", "r", "s", "t"], pairs) == ["p", "q", "p", "q", "t"]
    assert join(["z", "q", "r", "z", "q"], pairs) == ["q", "q", "q", "q", "q"]
    assert join(["9", "10", "9", "x", "y"], pairs) == ["9", "10", "9", "10", "y"]
    assert join([], near_pairs(parse([]), 40)) == []


def test_keep_drop_stop() -> None:
    stay, dropped = settle(ROWS, found(), "keep")
    assert [each["group"] for each in stay] == ["a/1", "a/1", "a/3", "a/1", "a/3", "b/3"]
    assert dropped == []
    stay, dropped = settle(ROWS, found(), "drop")
    assert [each["id"] for each in stay] == ["b/3"]
    assert [each["id"] for each in dropped] == ["a/1", "a/2", "a/3", "b/1", "b/2"]
    assert dropped[0]["reason"] == "label conflict: b/1 is b (identical pixels)"
    with pytest.raises(
        WorkError, match=r"^3 pairs of near-duplicates have different labels: a/1 \(a\) and b/1 \(b\): identical pixels"
    ):
        settle(ROWS, found(), "stop")
    assert settle(ROWS[:2], find(ROWS[:2], 40), "stop")[1] == []


def test_what_a_split_tears_apart() -> None:
    sides = dict(zip([each["id"] for each in ROWS], ["train", "train", "test", "test", "test", "val"], strict=True))
    groups = {"a/1": "p", "a/2": "p", "a/3": "p", "b/1": "q", "b/2": "q", "b/3": "q"}
    assert leaks(sides, groups, found()) == Leaks(pairs=2, identical=1, groups=2)
    whole = dict.fromkeys(sides, "train")
    assert not leaks(whole, groups, found())
    del sides["b/1"]
    assert leaks(sides, groups, found()) == Leaks(pairs=0, identical=0, groups=2)


def many() -> list[dict[str, Any]]:
    rows = [row(f"{label}/{i:02}", label, 0) for label in "ab" for i in range(20)]
    for number, each in enumerate(rows):
        each["group"] = f"g{number // 2}"
    return rows


NONE = find([], 40)


def test_a_division_counts_its_groups_and_how_far_it_is_off() -> None:
    rows = many()
    division = divide(rows, ["a", "b"], Prepare(["s"], "o"), {}, NONE)
    assert (division.groups, division.largest_group) == (20, 2)
    assert {each["fold"] for each in rows} == {None}
    assert set(division.deviation) == {"train", "val", "test"}
    assert max(division.deviation.values()) < 1e-9
    assert not division.leaks


def test_folds_are_given_with_the_split_of_the_first_run() -> None:
    rows = many()
    division = divide(rows, ["a", "b"], Prepare(["s"], "o", split=Split(folds=5)), {}, NONE)
    assert {(each["fold"], each["split"]) for each in rows} == {
        (0, "test"),
        (1, "val"),
        (2, "train"),
        (3, "train"),
        (4, "train"),
    }
    assert set(division.deviation) == {f"fold {fold}" for fold in range(5)}


def test_a_split_of_the_users_own_is_kept_and_its_leaks_are_counted() -> None:
    rows = many()
    own = {each["id"]: ("train", "val", "test")[number % 3] for number, each in enumerate(rows)}
    division = divide(rows, ["a", "b"], Prepare(["s"], "o", split=Split(column="t.csv:x")), own, NONE)
    assert {each["id"]: each["split"] for each in rows} == own
    assert division.leaks == Leaks(pairs=0, identical=0, groups=20)


def test_a_class_that_is_gone() -> None:
    with pytest.raises(RequestError, match="class c has no usable image left"):
        divide(many(), ["a", "b", "c"], Prepare(["s"], "o"), {}, NONE)
