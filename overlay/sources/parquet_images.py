"""Images and masks in Parquet tables: their columns, of bytes or paths, and a bounded reader of bytes by row.

A column of image files is of bytes, of paths, or of Hugging Face's struct of bytes and path, in which one of the two
may be null: files that are embedded in the table, or that it refers to.
"""

import errno
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from overlay.errors import ImageError, one_line
from overlay.storage.path import StoragePath

BYTES = ("image", "bytes", "image_bytes")
"""names of columns of image bytes"""
PATHS = ("uri", "path", "image_path", "image", "file_name")
"""names of columns of file paths"""
MASKS = ("mask", "mask_path")
"""names of columns of masks, as bytes or paths"""
EMBEDDED_MASK = "mask"
"""name of a mask that is embedded in the row of its image; other masks of rows have the paths of their files"""
GROUP_ROWS = 32
"""most images in one group of a manifest"""
_GROUP_BYTES = 64 * 2**20


@dataclass(frozen=True)
class FileColumn:
    """Column of image files."""

    name: str
    bytes: bool
    """whether it holds bytes, or structs of bytes and path; else paths"""
    struct: bool = False


def image_column(schema: pa.Schema) -> FileColumn | None:
    """Return the column of images; None where there is none."""
    return _find(schema, BYTES, want_bytes=True) or _find(schema, PATHS, want_bytes=False)


def mask_column(schema: pa.Schema) -> FileColumn | None:
    """Return the column of masks; None where there is none."""
    return _find(schema, MASKS, want_bytes=True) or _find(schema, MASKS, want_bytes=False)


def other_image_columns(schema: pa.Schema) -> list[str]:
    """Return the names of Hugging Face's columns of images that are neither the image nor the mask."""
    known = {column.name for column in (image_column(schema), mask_column(schema)) if column}
    return [field.name for field in schema if field.name not in known and _is_struct_of_file(field.type)]


def group_rows(file: pq.ParquetFile, number: int, columns: Sequence[str]) -> int:
    """Return how many images of a row group may be in memory at one time: at most 32, and about 64 MiB."""
    metadata = file.metadata.row_group(number)
    chunks = [metadata.column(index) for index in range(metadata.num_columns)]
    total: int = sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema.split(".")[0] in columns)
    rows: int = metadata.num_rows
    return max(1, min(GROUP_ROWS, _GROUP_BYTES * rows // max(total, 1)))


def table_group_rows(place: StoragePath) -> int:
    """Return the smallest `group_rows` of a table's row groups.

    Raises:
        OSError: the table can't be read or is damaged.
    """
    try:
        with pq.ParquetFile(place.path, filesystem=place.filesystem) as file:
            found = image_column(file.schema_arrow), mask_column(file.schema_arrow)
            columns = [column.name for column in found if column]
            return min((group_rows(file, number, columns) for number in range(file.num_row_groups)), default=GROUP_ROWS)
    except pa.ArrowException as error:
        raise OSError(f"{place} is damaged: {one_line(error)}") from error


def read_images(place: StoragePath, rows: list[int], *, masks: bool = False) -> Iterator[tuple[bytes | None, ...]]:
    """Yield the bytes of the image, and with ``masks`` of the mask, of the given ascending rows of a table.

    Null bytes are None. Memory holds a batch of few rows, whatever the size of the table's row groups.

    Raises:
        ImageError: the table is damaged.
        OSError: the table can't be read, or has changed since it was listed.
    """
    try:
        yield from _contents(place, rows, masks)
    except (OSError, pa.ArrowException) as error:
        # Parquet's own errors are OSErrors without a number; so are those of a bucket's network.
        if isinstance(error, OSError) and (error.errno is not None or place.in_bucket):
            raise
        raise ImageError(f"damaged table: {one_line(error)}") from error


def _contents(place: StoragePath, rows: list[int], masks: bool) -> Iterator[tuple[bytes | None, ...]]:
    # Without pre_buffer pages are read on demand, not a whole row group before its first row.
    with pq.ParquetFile(place.path, filesystem=place.filesystem, pre_buffer=False, buffer_size=2**20) as file:
        found = (image_column(file.schema_arrow), mask_column(file.schema_arrow) if masks else None)
        columns = [column.name for column in found if column]
        wanted = iter(rows)
        row = next(wanted, None)
        first = 0
        for number in range(file.num_row_groups):
            count = file.metadata.row_group(number).num_rows
            if row is None or not first <= row < first + count:
                first += count
                continue
            for batch in file.iter_batches(group_rows(file, number, columns), row_groups=[number], columns=columns):
                while row is not None and row < first + batch.num_rows:
                    values = [batch.column(name)[row - first].as_py() for name in columns]
                    yield tuple(value["bytes"] if isinstance(value, dict) else value for value in values)
                    row = next(wanted, None)
                first += batch.num_rows
    if row is not None:
        raise OSError(errno.ESTALE, f"{place} has changed since it was listed: it has no row {row}")


def _find(schema: pa.Schema, names: Sequence[str], *, want_bytes: bool) -> FileColumn | None:
    for name in names:
        if name in schema.names:
            kind = schema.field(name).type
            if want_bytes and (struct := _is_struct_of_file(kind)):
                return FileColumn(name, bytes=True, struct=struct)
            if _is_bytes(kind) if want_bytes else _is_text(kind):
                return FileColumn(name, bytes=want_bytes)
    return None


def _is_struct_of_file(kind: pa.DataType) -> bool:
    if not pa.types.is_struct(kind):
        return False
    fields = {kind.field(index).name: kind.field(index).type for index in range(kind.num_fields)}
    return "bytes" in fields and _is_bytes(fields["bytes"])


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
