"""Parquet files of images: atomic writer with small row groups, and reader."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from overlay.errors import one_line
from overlay.storage.atomic import write_atomically
from overlay.storage.path import StoragePath

ROW_GROUP_ROWS = 64
ROW_GROUP_BYTES = 64 * 2**20


@contextmanager
def write_rows(path: Path | StoragePath, schema: pa.Schema) -> Iterator["RowWriter"]:
    """Yield a writer of a Parquet file of images, which appears atomically when the block ends.

    One row group is in memory: at most ``ROW_GROUP_ROWS`` rows or about ``ROW_GROUP_BYTES`` bytes, so that a reader can
    stream and seek. Image files (structs of bytes and path) are compressed already, and stored uncompressed.

    Raises:
        OSError: the file can't be written.
    """
    stored = [field.name for field in schema if pa.types.is_struct(field.type)]
    small = [name for name in schema.names if name not in stored]
    with (
        write_atomically(path) as temporary,
        pq.ParquetWriter(
            temporary,
            schema,
            compression={f"{name}.bytes": "NONE" for name in stored}
            | {f"{name}.path": "ZSTD" for name in stored}
            | dict.fromkeys(small, "ZSTD"),
            use_dictionary=small,
            write_statistics=small,
        ) as writer,
    ):
        rows = RowWriter(writer, schema)
        yield rows
        rows.flush()


class RowWriter:
    """Writer that buffers rows and writes them as row groups."""

    def __init__(self, writer: pq.ParquetWriter, schema: pa.Schema) -> None:
        self._writer, self._schema = writer, schema
        self._rows: list[dict[str, Any]] = []
        self._tables: list[pa.Table] = []
        self._count = self._bytes = 0

    def write(self, row: dict[str, Any]) -> None:
        """Append a row; missing columns are null."""
        self._rows.append(row)
        self._count_rows(1, len(row["image"]["bytes"]) if row["image"] else 0)

    def write_table(self, table: pa.Table) -> None:
        """Append a table of few rows, which stay in one row group."""
        self._convert_rows()
        self._tables.append(table.select(self._schema.names).cast(self._schema))
        sizes = pc.binary_length(pc.struct_field(table["image"], "bytes"))
        self._count_rows(table.num_rows, pc.sum(sizes).as_py() or 0)

    def flush(self) -> None:
        """Write the buffered rows as a row group."""
        self._convert_rows()
        if self._tables:
            table = pa.concat_tables(self._tables)
            self._writer.write_table(table, row_group_size=table.num_rows)
        self._tables = []
        self._count = self._bytes = 0

    def _convert_rows(self) -> None:
        if self._rows:
            self._tables.append(pa.Table.from_pylist(self._rows, schema=self._schema))
        self._rows = []

    def _count_rows(self, rows: int, size: int) -> None:
        self._count += rows
        self._bytes += size
        if self._count >= ROW_GROUP_ROWS or self._bytes >= ROW_GROUP_BYTES:
            self.flush()


def open_parquet(place: Path | StoragePath) -> pq.ParquetFile:
    """Open a Parquet file on a disk or in a bucket.

    Raises:
        OSError: the file is missing, can't be read, or is incomplete or damaged.
    """
    place = StoragePath.of(place)
    try:
        return pq.ParquetFile(place.path, filesystem=place.filesystem)
    except pa.ArrowInvalid as error:
        raise OSError(f"{place} is no whole Parquet file ({one_line(error)}); delete it and try again") from error


def row_group_starts(file: pq.ParquetFile) -> NDArray[np.int64]:
    """Return the first row of each row group of a file, and then the number of its rows, (row groups + 1,)."""
    groups = range(file.num_row_groups)
    return np.cumsum([0, *(file.metadata.row_group(group).num_rows for group in groups)])


def read_row_range(file: pq.ParquetFile, rows: range, columns: Sequence[str] | None = None) -> pa.Table:
    """Read consecutive rows of a file, at least one; only the row groups that hold them are read."""
    starts = row_group_starts(file)
    first, last = np.searchsorted(starts, [rows.start, rows.stop - 1], side="right") - 1
    table = file.read_row_groups(list(range(first, last + 1)), columns=columns)
    return table.slice(rows.start - starts[first], len(rows))


def class_label_names(schema: pa.Schema, column: str) -> list[str]:
    """Return the names of a column of Hugging Face's ClassLabel, by the number that stands for each; else none.

    The schema's metadata have them: {"huggingface": {"info": {"features": {column: {"names": [...]}}}}}.
    """
    try:
        feature = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"][column]
        named = feature["_type"] == "ClassLabel" and pa.types.is_integer(schema.field(column).type)
        return [str(name) for name in feature["names"]] if named else []
    except (KeyError, TypeError, ValueError):
        return []
