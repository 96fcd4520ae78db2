import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from overlay.config import Limits
from overlay.errors import RequestError
from overlay.sources.data_address import NOT_ALLOWED
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
    assert list(read_images(place, [0, 2])) == [(b"a",), (None,)]


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
    assert list(read_images(place, [1, 3, 4])) == [(b"\1",), (b"\3",), (b"\4",)]
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
        ("t/2", "/elsewhere/b.png", None, f"{NOT_ALLOWED}: outside {tmp_path}; --allow_root /elsewhere would allow it"),
        ("t/3", str(place), None, "the row names no file"),
    ]
    assert (strange.uri, strange.reason) == (
        "ftp://host/c.png",
        f"{NOT_ALLOWED}: the scheme ftp:// is not read from data",
    )
    assert vast_one.reason == "file too large: 1099511627776 bytes, more than 268435456 (limits.member_bytes)"
    assert not holds_images(place)


def test_large_images_are_read_few_at_a_time(tmp_path: Path) -> None:
    place = table(tmp_path, {"image": [bytes([number]) * 30 * 2**20 for number in range(3)]}, row_group_size=3)
    with pq.ParquetFile(place.text) as file:
        assert group_rows(file, 0, ["image"]) == 2
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


def png(value: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((4, 4), value, np.uint8)).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def hugging_face(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A table of Hugging Face datasets: ClassLabel, images and masks, embedded and with paths."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    import datasets

    features = datasets.Features(
        {
            "image": datasets.Image(),
            "mask": datasets.Image(),
            "label": datasets.ClassLabel(names=["normal", "benign", "malignant"]),
        }
    )
    rows = {
        "image": [{"bytes": png(i), "path": f"p{i}.png"} for i in range(4)],
        "mask": [{"bytes": png(200 + i), "path": None} if i else None for i in range(4)],
        "label": [0, 1, 2, -1],
    }
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "hf.parquet", batch_size=2)
    return tmp_path / "hf.parquet"


def test_labels_and_masks_of_hugging_face(hugging_face: Path) -> None:
    place = StoragePath.of(hugging_face)
    refs = [ref for portion in list_table(place, RULE) for ref in portion.images]
    assert [(ref.id, ref.member, ref.label, ref.masks, ref.drawn, ref.reason) for ref in refs] == [
        ("t/p0.png", "0", None, (), False, None),  # normal is none of the classes of this rule
        ("t/p1.png", "1", "benign", ("mask",), True, None),
        ("t/p2.png", "2", "malignant", ("mask",), True, None),
        ("t/p3.png", "3", None, ("mask",), True, None),
    ]
    assert list(read_images(place, [1, 3], masks=True)) == [(png(1), png(201)), (png(3), png(203))]


STORED = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def test_files_to_which_a_table_refers(tmp_path: Path) -> None:
    for name in ("a.png", "a_gt.png"):
        (tmp_path / name).write_bytes(png(9))
    images = [{"bytes": None, "path": "a.png"}, {"bytes": png(1), "path": None}, None, {"path": "gone.png"}]
    masks = [{"bytes": None, "path": "a_gt.png"}, {"bytes": None, "path": "a_gt.png"}, None, {"bytes": png(2)}]
    columns = {"image": pa.array(images, STORED), "mask": pa.array(masks, STORED)}
    place = table(tmp_path, columns, row_group_size=4)
    refs = {ref.id: ref for portion in list_table(place, RULE) for ref in portion.images}
    mask = str(tmp_path / "a_gt.png")
    assert [(refs[f"t/{i}"].uri, refs[f"t/{i}"].member, refs[f"t/{i}"].masks) for i in range(4)] == [
        (str(tmp_path / "a.png"), None, (mask,)),
        (str(place), "1", (mask,)),
        (str(place), "2", ()),
        (str(tmp_path / "gone.png"), None, ()),
    ]
    assert [refs[f"t/{i}"].reason for i in range(4)] == [
        None,
        None,
        "the row has no image",
        "its mask is embedded in the table, and the image is not",
    ]


def test_a_prepared_image_is_not_drawn_on_again(tmp_path: Path) -> None:
    files = pa.array([{"bytes": b"x", "path": None}] * 2, STORED)
    place = table(tmp_path, {"image": files, "mask": files, "overlay": ["fill", "none"]})
    refs = [ref for portion in list_table(place, RULE) for ref in portion.images]
    assert [(ref.masks, ref.drawn) for ref in refs] == [((), True), (("mask",), True)]


def test_other_columns_of_images_are_refused(tmp_path: Path) -> None:
    files = pa.array([{"bytes": b"x", "path": None}], STORED)
    with pytest.raises(RequestError, match=r"has images in image and in annotation; name the column of masks mask"):
        list(list_table(table(tmp_path, {"image": files, "annotation": files}), RULE))
