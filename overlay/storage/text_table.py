"""Tables that users keep about their images, as columns of texts: CSV, TSV, Parquet, XLSX.

CSV comes from many programs: the separator is found by the rows themselves, and the encoding by a byte order mark, or
else by whether the bytes are UTF-8.
"""

import csv
import io
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from overlay.errors import RequestError, one_line
from overlay.storage.parquet import class_label_names
from overlay.storage.path import StoragePath

_SEPARATORS = ",;\t|"
_SNIFFED_ROWS = 50
_SNIFFED_TEXT = 2**20
_MARKS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))


@dataclass(frozen=True)
class TextTable:
    """Table whose values are texts."""

    columns: dict[str, list[str | None]]
    """name -> values, without spaces around them; None for an empty one"""
    remark: str | None = None
    """what the user must know of how the file was read"""


def read_text_table(place: StoragePath) -> TextTable:
    """Read a table by the extension of its file: .parquet, .xlsx, or else CSV.

    Of an XLSX file the first sheet is read; numbers are written as integers where they are. Columns of a Parquet table
    that are not texts, numbers or times are left out; a column of Hugging Face's ClassLabel has the names of its
    classes.

    Raises:
        RequestError: the file can't be read; the message is the reason, to follow the file's name.
    """
    kind = place.name.lower().rpartition(".")[2]
    try:
        if kind == "parquet":
            return _read_parquet(place)
        data = place.read_bytes()
        return _read_xlsx(data) if kind == "xlsx" else _read_csv(data)
    except (OSError, ValueError, csv.Error, pa.ArrowException) as error:
        if isinstance(error, RequestError):
            raise
        raise RequestError(f"can't be read: {one_line(error)}") from error


def _read_parquet(place: StoragePath) -> TextTable:
    with pq.ParquetFile(place.path, filesystem=place.filesystem) as file:
        schema = file.schema_arrow
        names = [field.name for field in schema if _is_plain(field.type)]
        table = file.read(columns=names)
    columns = {}
    for name in names:
        column = table[name]
        if classes := class_label_names(schema, name):
            column = pa.chunked_array([pa.array(classes)]).take(pc.if_else(pc.less(column, 0), None, column))
        elif pa.types.is_floating(column.type) and pc.all(pc.equal(pc.floor(column), column)).as_py():
            column = column.cast(pa.int64())  # pandas writes integers with a missing value as floats
        columns[name] = [_clean(value) for value in column.cast(pa.string()).to_pylist()]
    return TextTable(columns)


def _is_plain(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _is_plain(kind.value_type)
    return not (pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _read_xlsx(data: bytes) -> TextTable:
    try:
        import openpyxl
    except ImportError as error:
        raise RequestError(
            "needs the package openpyxl; install overlay[xlsx], or save the table as CSV (UTF-8)"
        ) from error
    from zipfile import BadZipFile

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of styles and extensions that it passes over
        try:
            book = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True)
        except (BadZipFile, KeyError) as error:
            raise ValueError("not an XLSX file") from error
        rows = [[_cell(value) for value in row] for row in book.worksheets[0].iter_rows(values_only=True)]
    remark = f"the first of {len(book.worksheets)} sheets is read, {book.worksheets[0].title}"
    return _table(
        (row for row in rows if any(value is not None for value in row)), remark if len(book.worksheets) > 1 else None
    )


def _cell(value: object) -> str | None:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return None if value is None else str(value)


def _read_csv(data: bytes) -> TextTable:
    text, remark = _decode(data)
    if text[:4].lower() == "sep=":  # Excel's own first line
        text = text.partition("\n")[2]
    separator = _find_separator(text)
    return _table(csv.reader(io.StringIO(text, newline=""), delimiter=separator), remark)


def _decode(data: bytes) -> tuple[str, str | None]:
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return data.decode(encoding), None
    if b"\0" in data[:1000]:
        return data.decode("utf-16-le" if data[1:2] == b"\0" else "utf-16-be"), None
    try:
        return data.decode("utf-8"), None
    except UnicodeDecodeError:
        try:
            text = data.decode("cp1252")  # Latin-1 with the signs that Windows adds
        except UnicodeDecodeError:
            text = data.decode("latin-1")
        return text, "it is not UTF-8, and is read as Latin-1 (Windows-1252)"


def _find_separator(text: str) -> str:
    """Return the separator that divides the first rows into the same number of columns, the most of them."""
    head = text[:_SNIFFED_TEXT]
    best, most = "", 1
    for separator in _SEPARATORS:
        reader = csv.reader(io.StringIO(head, newline=""), delimiter=separator)
        counts = [len(row) for row, _ in zip(reader, range(_SNIFFED_ROWS), strict=False) if row]
        if len(set(counts)) == 1 and counts[0] > most:
            best, most = separator, counts[0]
    first_line = head.partition("\n")[0]
    return best or max(_SEPARATORS, key=first_line.count)


def _table(rows: Iterable[Sequence[str | None]], remark: str | None) -> TextTable:
    """Make a table of rows of texts, of which the first has the names of the columns.

    Raises:
        ValueError: there is no row, or a row has more or fewer values than there are columns.
    """
    header: list[str] | None = None
    values: list[list[str | None]] = []
    for number, row in enumerate(rows, 1):
        if not row:
            continue
        if header is None:
            header = [(name or "").strip() for name in row]
            values = [[] for _ in header]
            continue
        if len(row) != len(header):
            raise ValueError(f"row {number} has {len(row)} values, and there are {len(header)} columns")
        for column, value in zip(values, row, strict=True):
            column.append(_clean(value))
    if header is None:
        raise ValueError("it is empty")
    columns: dict[str, list[str | None]] = {}
    for name, column in zip(header, values, strict=True):
        columns.setdefault(name, column)
    return TextTable(columns, remark)


def _clean(value: str | None) -> str | None:
    return (value or "").strip() or None
