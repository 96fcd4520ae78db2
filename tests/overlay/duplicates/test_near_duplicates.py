from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from overlay.config import Prepare, Split
from overlay.duplicates.hamming import near_pairs, parse_hashes
from overlay.duplicates.multi_index import Hashes
from overlay.duplicates.near_duplicates import (
    DUPLICATES_SCHEMA,
    Leakage,
    NearDuplicates,
    describe_pairs,
    find_leakage,
    join_groups,
    resolve_conflicts,
    search_pairs,
)
from overlay.errors import RequestError, WorkError
from overlay.preparation.division import split_dataset

FAR = [0, 2**64 - 1, 2**128 - 2**64, 2**192 - 2**128, 2**256 - 2**192]
"""numbers that are 64 or 128 bits apart"""


def row(id: str, label: str, value: int, pixels: str | None = None) -> dict[str, Any]:
    return {"id": id, "label": label, "phash": value.to_bytes(32), "pixels": pixels or id, "group": id}


ROWS = [
    row("a/1", "a", FAR[0], "same"),
    row("a/2", "a", FAR[0] | 0b111),
    row("a/3", "a", FAR[1]),
    row("b/1", "b", FAR[0], "same"),
    row("b/2", "b", FAR[1] ^ 0b1),
    row("b/3", "b", FAR[2]),
]


SCHEMA = pa.schema(
    [(name, pa.binary() if name == "phash" else pa.string()) for name in ("id", "label", "phash", "pixels", "group")]
)


def table(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def found(distance: int = 40) -> NearDuplicates:
    return describe_pairs(table(ROWS), search_pairs(table(ROWS)["phash"], distance))


def test_each_pair_is_one_row() -> None:
    pairs = found().table()
    assert pairs.schema == DUPLICATES_SCHEMA
    assert [tuple(each.values()) for each in pairs.to_pylist()] == [
        ("a/1", "a/2", 3, False, "a", "a"),
        ("a/1", "b/1", 0, True, "a", "b"),
        ("a/2", "b/1", 3, False, "a", "b"),
        ("a/3", "b/2", 1, False, "a", "b"),
    ]


def test_nothing_alike_is_an_empty_table() -> None:
    for rows in ([ROWS[0], ROWS[2], ROWS[5]], []):
        pairs = describe_pairs(table(rows), search_pairs(table(rows)["phash"], 40)).table()
        assert pairs.num_rows == 0
        assert pairs.schema == DUPLICATES_SCHEMA


def test_conflicts_come_first_and_are_described() -> None:
    duplicates = found()
    assert [duplicates.describe(int(pair)) for pair in duplicates.order_by_conflict()] == [
        "a/1 (a) and b/1 (b): identical pixels",
        "a/3 (a) and b/2 (b): distance 1",
        "a/2 (a) and b/1 (b): distance 3",
        "a/1 (a) and a/2 (a): distance 3",
    ]


def test_the_reason_names_the_nearest_contradiction() -> None:
    assert found().conflict_reasons() == {
        "a/1": "label conflict: b/1 is b (identical pixels)",
        "b/1": "label conflict: a/1 is a (identical pixels)",
        "a/3": "label conflict: b/2 is b (distance 1)",
        "b/2": "label conflict: a/3 is a (distance 1)",
        "a/2": "label conflict: b/1 is b (distance 3)",
    }


def joined(own: Sequence[str | None], values: list[int]) -> list[str]:
    ids = pa.chunked_array([[f"x{number}" for number in range(len(own))]], pa.string())
    groups: list[str] = join_groups(
        pa.chunked_array([own], pa.string()), ids, near_pairs(words(values), 40)
    ).to_pylist()
    return groups


def words(values: list[int]) -> Hashes:
    return parse_hashes(pa.chunked_array([[value.to_bytes(32) for value in values]], pa.binary(32)))


def test_groups_are_links_of_links_and_the_users_own() -> None:
    values = [FAR[0], FAR[1], FAR[0] | 1, FAR[1] | 2**70, FAR[2]]
    assert joined(["p", "q", "r", "s", "t"], values) == ["p", "q", "p", "q", "t"]
    assert joined(["z", "q", "r", "z", "q"], values) == ["q", "q", "q", "q", "q"]
    assert joined(["9", "10", "9", "x", "y"], values) == ["9", "10", "9", "10", "y"]
    assert joined([], []) == []
    assert joined([None] * 5, values) == ["x0", "x1", "x0", "x1", "x4"]
    assert joined([None, "q", None, None, "q"], values) == ["x0", "q", "x0", "q", "q"]


def test_keep_drop_stop() -> None:
    stay, dropped = resolve_conflicts(table(ROWS), found(), "keep")
    assert stay["group"].to_pylist() == ["a/1", "a/1", "a/3", "a/1", "a/3", "b/3"]
    assert stay["place"].to_pylist() == [0, 1, 2, 3, 4, 5]
    assert dropped.num_rows == 0
    stay, dropped = resolve_conflicts(table(ROWS), found(), "drop")
    assert stay.select(["id", "place"]).to_pylist() == [{"id": "b/3", "place": 5}]
    assert dropped["id"].to_pylist() == ["a/1", "a/2", "a/3", "b/1", "b/2"]
    assert dropped["reason"][0].as_py() == "label conflict: b/1 is b (identical pixels)"
    with pytest.raises(
        WorkError, match=r"^3 pairs of near-duplicates have different labels: a/1 \(a\) and b/1 \(b\): identical pixels"
    ):
        resolve_conflicts(table(ROWS), found(), "stop")
    alike = table(ROWS[:2])
    assert resolve_conflicts(alike, describe_pairs(alike, search_pairs(alike["phash"], 40)), "stop")[1].num_rows == 0


def test_what_a_split_tears_apart() -> None:
    sides: list[str | None] = ["train", "train", "test", "test", "test", "val"]
    groups = ["p", "p", "p", "q", "q", "q"]
    assert find_leakage(pa.array(sides, pa.string()), pa.array(groups), found()) == Leakage(
        pairs=2, identical=1, groups=2
    )
    assert not find_leakage(pa.array(["train"] * 6), pa.array(groups), found())
    sides[3], groups[3] = None, "r"
    assert find_leakage(pa.array(sides, pa.string()), pa.array(groups), found()) == Leakage(
        pairs=0, identical=0, groups=2
    )


def many(sides: list[str] | None = None, distance: int = 40) -> tuple[pa.Table, NearDuplicates]:
    """Forty images that have nothing to do with each other, in pairs as the user's own groups."""
    numbers = np.random.default_rng(0).integers(0, 256, (40, 32), np.uint8)
    rows = [
        row(f"{label}/{i:02}", label, int.from_bytes(numbers[i + 20 * (label == "b")].tobytes()))
        for label in "ab"
        for i in range(20)
    ]
    for number, each in enumerate(rows):
        each["group"] = f"g{number // 2}"
    images = table(rows)
    given = pa.array(sides, pa.string()) if sides else pa.nulls(len(rows), pa.string())
    images = images.append_column("given_split", given)
    duplicates = describe_pairs(images, search_pairs(images["phash"], distance))
    return resolve_conflicts(images, duplicates, "keep")[0], duplicates


def test_a_division_counts_its_groups_and_how_far_it_is_off() -> None:
    images, duplicates = many()
    divided, division = split_dataset(images, ["a", "b"], Prepare(["s"], "o"), duplicates)
    assert (division.groups, division.largest_group) == (20, 2)
    assert divided["fold"].null_count == 40
    assert divided["side"] == divided["split"]
    assert set(division.deviation) == {"train", "val", "test"}
    assert max(division.deviation.values()) < 1e-9
    assert not division.leaks


def test_folds_are_given_with_the_split_of_the_first_run() -> None:
    images, duplicates = many()
    divided, division = split_dataset(images, ["a", "b"], Prepare(["s"], "o", split=Split(folds=5)), duplicates)
    rows = divided.select(["fold", "split", "side"]).to_pylist()
    assert {tuple(each.values()) for each in rows} == {
        (0, "test", "fold 0"),
        (1, "val", "fold 1"),
        (2, "train", "fold 2"),
        (3, "train", "fold 3"),
        (4, "train", "fold 4"),
    }
    assert set(division.deviation) == {f"fold {fold}" for fold in range(5)}


def test_a_split_of_the_users_own_is_kept_and_its_leaks_are_counted() -> None:
    own = [("train", "val", "test")[number % 3] for number in range(40)]
    images, duplicates = many(own)
    divided, division = split_dataset(
        images, ["a", "b"], Prepare(["s"], "o", split=Split(column="t.csv:x")), duplicates
    )
    assert divided["split"].to_pylist() == own
    assert division.leaks == Leakage(pairs=0, identical=0, groups=20)


def test_what_was_dropped_takes_no_part_in_the_leaks() -> None:
    images = table(ROWS).append_column("given_split", pa.array(["train", "val", "test"] * 2))
    duplicates = describe_pairs(images, search_pairs(images["phash"], 40))
    stay = resolve_conflicts(images, duplicates, "keep")[0].slice(1)
    config = Prepare(["s"], "o", split=Split(column="t.csv:x"))
    divided, division = split_dataset(stay, ["a", "b"], config, duplicates)
    assert divided["id"].to_pylist() == ["a/2", "a/3", "b/1", "b/2", "b/3"]
    # a/2 and b/1, a/3 and b/2; the pairs of a/1 are gone
    assert division.leaks == Leakage(pairs=2, identical=0, groups=2)


def test_a_class_that_is_gone() -> None:
    images, duplicates = many()
    with pytest.raises(RequestError, match="class c has no usable image left"):
        split_dataset(images, ["a", "b", "c"], Prepare(["s"], "o"), duplicates)
