import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from overlay.config import Duplicates, OverlayStyle, Split
from overlay.dataset import (
    FORMAT,
    SCHEMA,
    Card,
    Request,
    fingerprint,
    is_dataset,
    open_dataset,
    part_path,
    write_card,
    write_rows,
)
from overlay.errors import RequestError

REQUEST = Request(["/data/busi"], OverlayStyle(), Split(), 1000, 256, "ab" * 32)
CARD = Card(
    format=FORMAT,
    overlay_version="0.1.0",
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
    leaks={"pairs": 0, "identical": 0, "groups": 0},
    rejected=2,
    parts=1,
    request=REQUEST,
    versions={"pillow": "13.0.0"},
)


def row(number: int, size: int = 10) -> dict[str, Any]:
    id = f"benign/{number}.png"
    return {"id": id, "image": {"bytes": bytes(size), "path": id}, "label": "benign", "width": 4, "height": 3}


def dataset(folder: Path, **changes: object) -> Path:
    write_card(folder, CARD)
    card = json.loads((folder / "dataset.json").read_text()) | changes
    (folder / "dataset.json").write_text(json.dumps(card))
    part_path(folder, 0).parent.mkdir()
    with write_rows(part_path(folder, 0), SCHEMA) as rows:
        rows.write(row(1))
    return folder


def test_columns_are_the_contract() -> None:
    assert [(field.name, str(field.type)) for field in SCHEMA] == [
        ("id", "string"),
        ("image", "struct<bytes: binary, path: string>"),
        ("label", "string"),
        ("split", "string"),
        ("fold", "int32"),
        ("group", "string"),
        ("width", "int32"),
        ("height", "int32"),
        ("phash", "string"),
        ("overlay", "string"),
        ("source", "string"),
        ("mask_area_share", "double"),
        ("mask_aspect", "double"),
        ("mask_extent", "double"),
        ("mask_compactness", "double"),
        ("mask_lesions", "int32"),
    ]


def test_hugging_face_finds_the_image_column() -> None:
    features = json.loads(SCHEMA.metadata[b"huggingface"])["info"]["features"]
    assert list(features) == SCHEMA.names
    assert features["image"] == {"_type": "Image"}
    assert features["mask_extent"] == {"dtype": "float64", "_type": "Value"}
    assert features["width"] == {"dtype": "int32", "_type": "Value"}


def test_a_card_is_read_as_it_was_written(tmp_path: Path) -> None:
    opened = open_dataset(dataset(tmp_path))
    assert opened.card == CARD
    assert opened.path == str(tmp_path)
    assert opened.data_files() == [f"{tmp_path}/data/part-00000.parquet"]
    assert is_dataset(tmp_path)


def test_row_groups_are_small_in_rows_and_in_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("overlay.dataset.ROW_GROUP_BYTES", 250)
    with write_rows(tmp_path / "part.parquet", SCHEMA) as rows:
        for number in range(64):
            rows.write(row(number, size=1))
        for number in range(64, 70):
            rows.write(row(number, size=100))
    metadata = pq.read_metadata(tmp_path / "part.parquet")
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [64, 3, 3]
    columns = {metadata.row_group(0).column(i).path_in_schema: i for i in range(metadata.num_columns)}
    assert metadata.row_group(0).column(columns["image.bytes"]).compression == "UNCOMPRESSED"
    table = pq.read_table(tmp_path / "part.parquet")
    assert table.schema.equals(SCHEMA, check_metadata=True)
    assert table["id"].to_pylist() == [f"benign/{number}.png" for number in range(70)]
    assert table["mask_extent"].null_count == 70


def test_a_file_that_fails_in_the_middle_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(pa.ArrowInvalid), write_rows(tmp_path / "part.parquet", SCHEMA) as rows:
        rows.write(row(1) | {"width": "wide"})
    assert list(tmp_path.iterdir()) == []


def test_fingerprint_by_hand() -> None:
    rows = [("b", "x", "train", "b", "22"), ("a", "y", "val", "g", "11")]
    text = '["a", "y", "val", "g", "11"]\n["b", "x", "train", "b", "22"]\n'
    assert fingerprint(rows) == hashlib.sha256(text.encode()).hexdigest()
    assert fingerprint(reversed(rows)) == fingerprint(rows)


@pytest.mark.parametrize("column", range(5))
def test_fingerprint_covers_every_column(column: int) -> None:
    row = ["a", "y", "val", "g", "11"]
    changed = [*row]
    changed[column] += "!"
    assert fingerprint([tuple(row)]) != fingerprint([tuple(changed)])  # type: ignore[list-item]


def test_no_dataset(tmp_path: Path) -> None:
    assert not is_dataset(tmp_path)
    with pytest.raises(RequestError, match=r"is not a prepared dataset .* make one with `overlay prepare`"):
        open_dataset(tmp_path)
    with pytest.raises(RequestError, match=r"nowhere is not there; make it with `overlay prepare SOURCE --out"):
        open_dataset(tmp_path / "nowhere")


def test_a_newer_dataset_names_both_versions(tmp_path: Path) -> None:
    folder = dataset(tmp_path, format=FORMAT + 1, overlay_version="7.1", request={"unknown": "shape"})
    with pytest.raises(RequestError, match=rf"format {FORMAT + 1} by overlay 7\.1; this is overlay .* format {FORMAT}"):
        open_dataset(folder)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"format": 1}', '{"format": "x", "overlay_version": "1"}'])
def test_a_card_of_somebody_else(tmp_path: Path, text: str) -> None:
    (dataset(tmp_path) / "dataset.json").write_text(text)
    with pytest.raises(RequestError, match=r"dataset\.json is damaged, or no card of a dataset of ours"):
        open_dataset(tmp_path)


def test_a_missing_part(tmp_path: Path) -> None:
    part_path(dataset(tmp_path), 0).unlink()
    with pytest.raises(RequestError, match=r"part-00000\.parquet is missing"):
        open_dataset(tmp_path)


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        (REQUEST, None),
        (
            Request(["/data/busi"], OverlayStyle(alpha=0.5), Split(), 1000, 256, "ab" * 32),
            "overlay.alpha is 0.35 there and 0.5 here",
        ),
        (
            Request(["/x"], OverlayStyle(), Split(), 1000, 256, "ab" * 32),
            "sources is ['/data/busi'] there and ['/x'] here",
        ),
        (
            Request(["/data/busi"], OverlayStyle(), Split(seed=3), 1000, 256, "ab" * 32),
            "split.seed is 0 there and 3 here",
        ),
        (Request(["/data/busi"], OverlayStyle(), Split(), 1000, 256, "cd" * 32), "the sources hold other files now"),
        (
            Request(["/data/busi"], OverlayStyle(), Split(), 1000, 256, "ab" * 32, Duplicates(conflicts="drop")),
            "duplicates.conflicts is 'keep' there and 'drop' here",
        ),
        (
            Request(["/data/busi"], OverlayStyle(), Split(), 1000, 256, "ab" * 32, tables="ef" * 32),
            "the table of split.group_by or split.column says something else now",
        ),
    ],
)
def test_difference_of_requests(other: Request, difference: str | None) -> None:
    assert REQUEST.difference(other) == difference
