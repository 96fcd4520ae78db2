import json
from dataclasses import replace
from pathlib import Path

import pytest

from overlay.config import OverlayStyle
from overlay.dataset.card import write_card
from overlay.dataset.prepared import is_dataset, open_dataset, part_path
from overlay.dataset.schema import DATASET_SCHEMA
from overlay.errors import RequestError
from overlay.storage.parquet import write_rows
from tests.overlay.dataset.test_card import CARD


def test_columns_are_the_contract() -> None:
    assert [(field.name, str(field.type)) for field in DATASET_SCHEMA] == [
        ("id", "string"),
        ("image", "struct<bytes: binary, path: string>"),
        ("mask", "struct<bytes: binary, path: string>"),
        ("label", "string"),
        ("split", "string"),
        ("fold", "int32"),
        ("group", "string"),
        ("width", "int32"),
        ("height", "int32"),
        ("frame", "int32"),
        ("encoding", "string"),
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
    features = json.loads(DATASET_SCHEMA.metadata[b"huggingface"])["info"]["features"]
    assert list(features) == DATASET_SCHEMA.names
    assert features["image"] == features["mask"] == {"_type": "Image"}
    assert features["mask_extent"] == {"dtype": "float64", "_type": "Value"}
    assert features["width"] == {"dtype": "int32", "_type": "Value"}


def dataset(folder: Path) -> Path:
    write_card(folder, CARD)
    part_path(folder, 0).parent.mkdir()
    with write_rows(part_path(folder, 0), DATASET_SCHEMA) as rows:
        rows.write({"id": "benign/1.png", "label": "benign", "image": {"bytes": b"", "path": ""}})
    return folder


def test_what_is_opened_is_what_was_written(tmp_path: Path) -> None:
    opened = open_dataset(dataset(tmp_path))
    assert opened.card == CARD
    assert opened.path == str(tmp_path)
    assert opened.data_files() == [f"{tmp_path}/data/part-00000.parquet"]
    assert is_dataset(tmp_path)


def test_no_dataset(tmp_path: Path) -> None:
    assert not is_dataset(tmp_path)
    with pytest.raises(RequestError, match=r"is not a prepared dataset .* make one with `overlay prepare`"):
        open_dataset(tmp_path)
    with pytest.raises(RequestError, match=r"nowhere is not there; make it with `overlay prepare SOURCE --out"):
        open_dataset(tmp_path / "nowhere")


def test_a_missing_part(tmp_path: Path) -> None:
    part_path(dataset(tmp_path), 0).unlink()
    with pytest.raises(RequestError, match=r"part-00000\.parquet is missing"):
        open_dataset(tmp_path)


def test_contours_of_one_width_in_source_pixels_are_refused(tmp_path: Path) -> None:
    contours = replace(CARD.request, overlay=OverlayStyle("contour"))
    write_card(tmp_path, replace(CARD, format=2, request=contours, parts=0))
    with pytest.raises(RequestError, match="has contours of one width in source pixels"):
        open_dataset(tmp_path)
    write_card(tmp_path, replace(CARD, request=contours, parts=0))
    assert open_dataset(tmp_path).card.request == contours
