from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from overlay.config import Limits
from overlay.errors import RequestError
from overlay.sources.input_table import holds_images, list_table
from overlay.sources.inputs import ListingRule
from overlay.sources.parquet_images import group_rows, read_images
from overlay.storage.path import StoragePath

RULE = ListingRule("t/", Limits(), ("benign", "malignant"))


def table(folder: Path, columns: dict[str, Any], row_group_size: int = 2) -> StoragePath:
    pq.write_table(pa.table(columns), folder / "t.parquet", row_group_size=row_group_size)
    return StoragePath.of(folder / "t.parquet")


@pytest.mark.parametrize("name", ["image", "bytes", "image_bytes"])
def test_bytes(tmp_path: Path, name: str) -> None:
    place = table(tmp_path, {name: [b"a", b"b", None], "label": ["Benign", None, "cyst"]})
    portions = list(list_table(place, RULE))
    assert [[(image.id, image.member, image.label) for image in portion.images] for portion in portions] == [
        [("t/0", "0", "benign"), ("t/1", "1", None)],
        [("t/2", "2", None)],
    ]
    assert all(portion.in_order for portion in portions)
    assert holds_images(place)
    assert list(read_images(place, [0, 2])) == [b"a", None]


def test_the_struct_of_hugging_face_and_of_our_own(tmp_path: Path) -> None:
    images = [{"bytes": bytes([number]), "path": None} for number in range(5)]
    columns = {
        "id": [f"x{number}" for number in range(5)],
        "image": images,
        "overlay": ["fill", "none", None, "none", "contour"],
    }
    place = table(tmp_path, columns)
    found = [image for portion in list_table(place, RULE) for image in portion.images]
    assert [(image.id, image.drawn) for image in found] == [
        *(("t/x0", True), ("t/x1", False), ("t/x2", False)),
        *(("t/x3", False), ("t/x4", True)),
    ]
    assert list(read_images(place, [1, 3, 4])) == [b"\1", b"\3", b"\4"]
    with pytest.raises(OSError, match="has changed since it was listed: it has no row 9"):
        list(read_images(place, [4, 9]))


def test_paths(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("1234")
    with (tmp_path / "vast.png").open("wb") as vast:
        vast.truncate(2**40)
    paths = ["a.png", "/elsewhere/b.png", None, "ftp://host/c.png", "vast.png"]
    place = table(tmp_path, {"path": paths, "id": ["1", "2", "3", "4", "5"]})
    *found, strange, vast_one = [image for portion in list_table(place, RULE) for image in portion.images]
    assert [(image.id, image.uri, image.size, image.reason) for image in found] == [
        ("t/1", str(tmp_path / "a.png"), 4, None),
        ("t/2", "/elsewhere/b.png", None, None),
        ("t/3", str(place), None, "the row names no file"),
    ]
    assert strange.reason is not None
    assert "ftp://host/c.png" in strange.reason
    assert vast_one.reason == "file too large: 1099511627776 bytes, more than 268435456 (limits.member_bytes)"
    assert not holds_images(place)


def test_large_images_are_read_few_at_a_time(tmp_path: Path) -> None:
    place = table(tmp_path, {"image": [bytes([number]) * 30 * 2**20 for number in range(3)]}, row_group_size=3)
    with pq.ParquetFile(place.text) as file:
        assert group_rows(file, 0, "image") == 2
    assert [portion.group_rows for portion in list_table(place, RULE)] == [2]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"text": ["a"]}, r"has no column of images; name one image, bytes, image_bytes \(bytes\) or uri, path"),
        ({"image": [b"a", b"b"], "id": ["x", "x"]}, r"has 'x' twice in its column id; give each row an id of its own"),
        ({"uri": ["a.png", "a.png"]}, r"has 'a.png' twice in its column uri"),
        ({"uri": ["a.png"], "label": [["x"]]}, r"has no texts in its column label \("),
        ({"uri": ["a.png"], "label": [b"\xff"]}, r"has no texts in its column label \("),
    ],
)
def test_tables_that_are_refused(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        list(list_table(table(tmp_path, columns), RULE))


def test_no_table(tmp_path: Path) -> None:
    (tmp_path / "t.parquet").write_text("no table")
    with pytest.raises(RequestError, match=r"t\.parquet can't be read: .*; give a Parquet file"):
        list(list_table(StoragePath.of(tmp_path / "t.parquet"), RULE))
