from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from overlay.config import table_column
from overlay.errors import RequestError
from overlay.preparation.metadata_table import MetadataColumn

IDS = ["s/a/1.png", "s/a/2.png", "s/b/3.png"]
PATHS = ["a/1.png", "a/2.png", "b/3.png"]


def values(option: str, column: str) -> list[str | None]:
    table = MetadataColumn(option, column)
    for id, path in zip(IDS, PATHS, strict=True):
        table.observe(id, path)
    table.settle()
    return [table.value(id, path) for id, path in zip(IDS, PATHS, strict=True)]


def test_a_csv_by_path_keeps_numbers_as_they_are_written(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("age,path,patient\n3,a/1.png,007\n4,b/3.png,\n5,elsewhere.png,1\n")
    assert values("o", f"{tmp_path}/t.csv:patient") == ["007", None, None]


def test_a_parquet_by_id(tmp_path: Path) -> None:
    pq.write_table(pa.table({"path": PATHS, "id": IDS, "patient": [7, None, 9]}), tmp_path / "t.parquet")
    assert values("o", f"{tmp_path}/t.parquet:patient") == ["7", None, "9"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,x\na,1\n", r"t\.csv has no column patient; it has id, x"),
        ("path,patient\na/1.png,1\na/1.png,2\n", r"t\.csv names a/1\.png twice, with different values; name each"),
        ("path,patient\nx,1\n", r"t\.csv names none of the images; the path of one is 'a/1\.png'"),
        ("path,patient\na/1.png\n", r"t\.csv can't be read: row 2 has 1 values, and there are 2 columns"),
        ("", r"t\.csv can't be read: it is empty"),
    ],
)
def test_a_table_that_does_not_fit(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(RequestError, match=message):
        values("split.group_by", f"{tmp_path}/t.csv:patient")


def found(tmp_path: Path, text: str, paths: list[str]) -> tuple[list[str | None], list[str]]:
    (tmp_path / "t.csv").write_text(text)
    column = MetadataColumn("o", f"{tmp_path}/t.csv:dx")
    return column.lookup(paths), [line.removeprefix(f"o {tmp_path}/t.csv: ") for line in column.remarks()]


@pytest.mark.parametrize(
    ("text", "how"),
    [
        ("image_id,dx\nx/1.png,b\nx/2.png,m\n", "2 of 2 images are found, by id in its column image_id"),
        (r"file,dx" "\n" r"C:\data\1.png,b" "\n" r"C:\data\2.png,m" "\n", "by file name in its column file"),
        ("age,scan,dx\n50,1.dcm,b\n50,2.dcm,m\n", "by stem in its column scan"),
        ("number,dx\n1,b\n2,m\n", "by stem in its column number"),
        ("age,number,dx\n1,1,b\n60,2,m\n", "by stem in its column number"),
    ],
)
def test_how_images_are_found(tmp_path: Path, text: str, how: str) -> None:
    values, remarks = found(tmp_path, text, ["x/1.png", "x/2.png"])
    assert values == ["b", "m"]
    assert how in remarks[0]
    assert len(remarks) == 1


def test_rows_without_an_image_are_counted_and_named(tmp_path: Path) -> None:
    values, remarks = found(tmp_path, "id,dx\n1,b\n7,m\n8,m\n9,b\n10,b\n", ["1.png", "2.png"])
    assert values == ["b", None]
    assert remarks == ["1 of 2 images are found, by stem in its column id", "4 rows without an image: 7, 8, 9, ..."]


def test_names_that_several_images_have_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"names 1, which a/1\.png and b/1\.png both match; give the paths"):
        found(tmp_path, "id,dx\n1,b\n2,m\n", ["a/1.png", "b/1.png"])
    # By their paths they are told apart.
    assert found(tmp_path, "id,dx\na/1.png,b\nb/1.png,m\n", ["a/1.png", "b/1.png"])[0] == ["b", "m"]


def test_frames_of_a_file_have_its_value_and_unicode_forms_do_not_matter(tmp_path: Path) -> None:
    text = "id,dx\nscan.dcm,b\nMu\u0308ller.png,m\n"
    assert found(tmp_path, text, ["scan.dcm#0", "scan.dcm#1", "M\u00fcller.png"])[0] == ["b", "b", "m"]


def test_several_rows_of_an_image_may_agree(tmp_path: Path) -> None:
    assert found(tmp_path, "id,lesion,dx\n1,1,b\n1,2,b\n2,1,m\n", ["1.png", "2.png"])[0] == ["b", "m"]


def test_no_table(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"split\.column .*t\.parquet can't be read"):
        values("split.column", f"{tmp_path}/t.parquet:side")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.csv:patient", ("a.csv", "patient")),
        ("s:/x/A.PARQUET:my side", ("s:/x/A.PARQUET", "my side")),
        (r"patient(\d+)", None),
        ("a.tsv:b", ("a.tsv", "b")),
        ("a.xlsx:b", ("a.xlsx", "b")),
        ("a.csv", None),
        ("a.csv:", None),
    ],
)
def test_a_column_of_a_table_is_told_from_a_pattern(text: str, expected: tuple[str, str] | None) -> None:
    assert table_column(text) == expected
