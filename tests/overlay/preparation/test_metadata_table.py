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
    found = [table.value(id, path) for id, path in zip(IDS, PATHS, strict=True)]
    table.check_found()
    return found


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
        ("name,patient\na,1\n", r"t\.csv has no column id or path; it has name, patient"),
        ("path,patient\na/1.png,1\na/1.png,1\n", r"t\.csv names a/1\.png twice; name each image once"),
        ("path,patient\nx,1\n", r"t\.csv names none of the images; the path of one is 'a/1\.png'"),
        ("path,patient\na/1.png\n", r"t\.csv can't be read: CSV parse error"),
        ("", r"t\.csv can't be read: Empty CSV file"),
    ],
)
def test_a_table_that_does_not_fit(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(RequestError, match=message):
        values("split.group_by", f"{tmp_path}/t.csv:patient")


def test_no_table(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"split\.column .*t\.parquet can't be read"):
        values("split.column", f"{tmp_path}/t.parquet:side")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.csv:patient", ("a.csv", "patient")),
        ("s:/x/A.PARQUET:my side", ("s:/x/A.PARQUET", "my side")),
        (r"patient(\d+)", None),
        ("a.csv", None),
        ("a.csv:", None),
    ],
)
def test_a_column_of_a_table_is_told_from_a_pattern(text: str, expected: tuple[str, str] | None) -> None:
    assert table_column(text) == expected
