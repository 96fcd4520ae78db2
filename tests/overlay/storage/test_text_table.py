from collections.abc import Callable
from pathlib import Path

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from overlay.errors import RequestError
from overlay.storage.atomic import write_atomically, write_text_atomically
from overlay.storage.path import StoragePath
from overlay.storage.text_table import TextTable, read_text_table


def read(path: Path, data: bytes = b"") -> TextTable:
    if data:
        path.write_bytes(data)
    return read_text_table(StoragePath.of(path))


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_separators(tmp_path: Path, separator: str) -> None:
    text = 'id,weight,note\n1,"2,5","a, b; c"\n2,3,\n'.replace(",", "\0")
    data = text.replace("2\x005", "2,5").replace("a\0 b; c", "a, b; c").replace("\0", separator).encode()
    assert read(tmp_path / "t.csv", data).columns == {
        "id": ["1", "2"],
        "weight": ["2,5", "3"],
        "note": ["a, b; c", None],
    }


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "latin-1"])
def test_encodings(tmp_path: Path, encoding: str) -> None:
    table = read(tmp_path / "t.csv", "id,dx\r\nMüller,gutartig\r\n".encode(encoding))
    assert table.columns == {"id": ["Müller"], "dx": ["gutartig"]}
    remark = "it is not UTF-8, and is read as Latin-1 (Windows-1252)"
    assert table.remark == (remark if encoding == "latin-1" else None)


def test_the_first_line_of_excel_and_empty_lines_are_no_rows(tmp_path: Path) -> None:
    assert read(tmp_path / "t.csv", b"sep=;\nid;dx\n\n 1 ;b\n").columns == {"id": ["1"], "dx": ["b"]}


def test_an_xlsx_keeps_whole_numbers(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    assert book.active is not None
    for row in (["id", "dx", "age"], [1, "b", 2.5], [2.0, None, 3], [None, None, None]):
        book.active.append(row)
    book.create_sheet("other")
    book.save(tmp_path / "t.xlsx")
    table = read(tmp_path / "t.xlsx")
    assert table.columns == {"id": ["1", "2"], "dx": ["b", None], "age": ["2.5", "3"]}
    assert table.remark == "the first of 2 sheets is read, Sheet"
    with pytest.raises(RequestError, match="can't be read: not an XLSX file"):
        read(tmp_path / "u.xlsx", b"id,dx\n")


def test_a_parquet_table_has_texts_and_names_of_classes(tmp_path: Path) -> None:
    metadata = '{"info": {"features": {"label": {"names": ["normal", "benign"], "_type": "ClassLabel"}}}}'
    table = pa.table(
        {"image": [b"x", b"y", b"z"], "label": [1, 0, -1], "age": [3.0, None, 4.0], "kind": ["a", " b", ""]}
    ).replace_schema_metadata({"huggingface": metadata})
    pq.write_table(table, tmp_path / "t.parquet")
    assert read(tmp_path / "t.parquet").columns == {
        "label": ["benign", "normal", None],
        "age": ["3", None, "4"],
        "kind": ["a", "b", None],
    }


def test_a_table_in_a_bucket(new_bucket: Callable[[], str]) -> None:
    bucket = StoragePath.of(new_bucket())
    write_text_atomically(bucket / "t.csv", "id,age\n1,50\n")
    with write_atomically(bucket / "t.parquet") as temporary:
        pq.write_table(pa.table({"id": ["1"], "age": [50]}), temporary)
    for name in ("t.csv", "t.parquet"):
        assert read_text_table(bucket / name).columns == {"id": ["1"], "age": ["50"]}
    with pytest.raises(RequestError, match="can't be read: "):
        read_text_table(bucket / "u.csv")
