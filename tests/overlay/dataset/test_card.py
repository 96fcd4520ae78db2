import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from overlay.config import Duplicates, OverlayStyle, Split
from overlay.dataset.card import DATASET_FORMAT, DatasetCard, DatasetRequest, fingerprint, read_card, write_card
from overlay.errors import RequestError

REQUEST = DatasetRequest(["/data/busi"], OverlayStyle(), Split(), 1000, 256, "ab" * 32)
CARD = DatasetCard(
    format=DATASET_FORMAT,
    overlay_version="0.1.0",
    code="0123456789abcdef",
    fingerprint="cd" * 32,
    classes=["benign", "normal"],
    counts={"benign": {"train": 3, "val": 1, "test": 1}, "normal": {"train": 4, "val": 1, "test": 1}},
    groups=9,
    largest_group=3,
    near_duplicates=4,
    all_pairs=True,
    identical=1,
    conflicts=0,
    deviation={"test": 5.5, "train": 1.25, "val": 0.0},
    group_sizes={"train": {"groups": 9, "mean": 1.222, "median": 1.0, "largest": 3}},
    leaks={"pairs": 0, "identical": 0, "groups": 0},
    rejected=2,
    parts=1,
    request=REQUEST,
    versions={"pillow": "13.0.0"},
    masks={"benign": {"masks": 5, "empty": 1, "inverted": 0, "over_90_percent": 0}},
)


def changed(folder: Path, **changes: object) -> Path:
    write_card(folder, CARD)
    card = json.loads((folder / "dataset.json").read_text()) | changes
    (folder / "dataset.json").write_text(json.dumps(card))
    return folder


def test_a_card_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_card(tmp_path, CARD)
    assert read_card(tmp_path) == CARD


def test_a_card_without_counts_of_masks_is_read(tmp_path: Path) -> None:
    card = json.loads((changed(tmp_path) / "dataset.json").read_text())
    del card["masks"]
    (tmp_path / "dataset.json").write_text(json.dumps(card))
    assert read_card(tmp_path) == replace(CARD, masks={})


def test_a_card_from_before_there_were_encodings_is_read(tmp_path: Path) -> None:
    card = json.loads((changed(tmp_path) / "dataset.json").read_text())
    del card["encodings"], card["request"]["encoding"]
    (tmp_path / "dataset.json").write_text(json.dumps(card))
    assert read_card(tmp_path) == CARD


def test_another_encoding_is_another_request() -> None:
    assert REQUEST.difference(replace(REQUEST, encoding="webp")) == "encoding is 'png' there and 'webp' here"
    assert REQUEST.difference(replace(REQUEST, max_side=512)) == "max_side is None there and 512 here"


def rows(*values: tuple[str, str, str, str, bytes]) -> pa.Table:
    names = ["id", "label", "side", "group", "sha256"]
    return pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in values])


def test_fingerprint_by_hand() -> None:
    table = rows(("b", "x", "train", "b", b"\x22"), ("a", "y", "val", "g", b"\x11"))
    text = '["a", "y", "val", "g", "11"]\n["b", "x", "train", "b", "22"]\n'
    assert fingerprint(table) == hashlib.sha256(text.encode()).hexdigest()
    assert fingerprint(table.take([1, 0])) == fingerprint(table)


@pytest.mark.parametrize("column", range(5))
def test_fingerprint_covers_every_column(column: int) -> None:
    row: tuple[Any, ...] = ("a", "y", "val", "g", b"1")
    other = tuple(value + value[:1] if place == column else value for place, value in enumerate(row))
    assert fingerprint(rows(row)) != fingerprint(rows(other))


def test_a_newer_dataset_names_both_versions(tmp_path: Path) -> None:
    folder = changed(tmp_path, format=DATASET_FORMAT + 1, overlay_version="7.1", request={"unknown": "shape"})
    with pytest.raises(
        RequestError, match=rf"format {DATASET_FORMAT + 1} by overlay 7\.1; this is overlay .* format {DATASET_FORMAT}"
    ):
        read_card(folder)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"format": 1}', '{"format": "x", "overlay_version": "1"}'])
def test_a_card_of_somebody_else(tmp_path: Path, text: str) -> None:
    (changed(tmp_path) / "dataset.json").write_text(text)
    with pytest.raises(RequestError, match=r"dataset\.json is damaged, or no card of a dataset of ours"):
        read_card(tmp_path)


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        (REQUEST, None),
        (
            DatasetRequest(["/data/busi"], OverlayStyle(alpha=0.5), Split(), 1000, 256, "ab" * 32),
            "overlay.alpha is 0.35 there and 0.5 here",
        ),
        (
            DatasetRequest(["/x"], OverlayStyle(), Split(), 1000, 256, "ab" * 32),
            "sources is ['/data/busi'] there and ['/x'] here",
        ),
        (
            DatasetRequest(["/data/busi"], OverlayStyle(), Split(seed=3), 1000, 256, "ab" * 32),
            "split.seed is 0 there and 3 here",
        ),
        (
            DatasetRequest(["/data/busi"], OverlayStyle(), Split(), 1000, 256, "cd" * 32),
            "the sources hold other files now, or files that have changed",
        ),
        (
            DatasetRequest(["/data/busi"], OverlayStyle(), Split(), 1000, 256, "ab" * 32, Duplicates(conflicts="drop")),
            "duplicates.conflicts is 'keep' there and 'drop' here",
        ),
        (
            DatasetRequest(["/data/busi"], OverlayStyle(), Split(), 1000, 256, "ab" * 32, tables="ef" * 32),
            "the table of labels.column, split.group_by or split.column says something else now",
        ),
    ],
)
def test_difference_of_requests(other: DatasetRequest, difference: str | None) -> None:
    assert REQUEST.difference(other) == difference
