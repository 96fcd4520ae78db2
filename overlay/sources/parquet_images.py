"""Images in Parquet tables: the column of bytes or paths, and a bounded reader of bytes by row."""

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from overlay.errors import one_line
from overlay.storage.path import StoragePath

BYTES = ("image", "bytes", "image_bytes")
"""names of columns of image bytes"""
PATHS = ("uri", "path", "image_path")
"""names of columns of file paths"""
GROUP_ROWS = 32
"""most images in one group of a manifest"""
_GROUP_BYTES = 64 * 2**20


def image_column(schema: pa.Schema) -> tuple[str, bool] | None:
    """Return the name of the column of images, and whether it holds bytes (else paths); None where there is none."""
    for name in BYTES:
        if name in schema.names and _is_bytes(schema.field(name).type):
            return name, True
    for name in PATHS:
        if name in schema.names and (
            pa.types.is_string(kind := schema.field(name).type) or pa.types.is_large_string(kind)
        ):
            return name, False
    return None


def group_rows(file: pq.ParquetFile, number: int, column: str) -> int:
    """Return how many images of a row group may be in memory at one time: at most 32, and about 64 MiB."""
    metadata = file.metadata.row_group(number)
    chunks = [metadata.column(index) for index in range(metadata.num_columns)]
    total: int = sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema.split(".")[0] == column)
    rows: int = metadata.num_rows
    return max(1, min(GROUP_ROWS, _GROUP_BYTES * rows // max(total, 1)))


def read_images(place: StoragePath, rows: list[int]) -> Iterator[bytes | None]:
    """Yield the image bytes of the given ascending rows of a table; None for a null.

    Memory holds a batch of few rows, whatever the size of the table's row groups.

    Raises:
        OSError: the table can't be read, is damaged, or has changed since it was listed.
    """
    try:
        yield from _contents(place, rows)
    except pa.ArrowException as error:
        raise OSError(f"{place} is damaged: {one_line(error)}") from error


def _contents(place: StoragePath, rows: list[int]) -> Iterator[bytes | None]:
    # Without pre_buffer pages are read on demand, not a whole row group before its first row.
    with pq.ParquetFile(place.path, filesystem=place.filesystem, pre_buffer=False, buffer_size=2**20) as file:
        column, _ = image_column(file.schema_arrow) or ("", True)
        wanted = iter(rows)
        row = next(wanted, None)
        first = 0
        for number in range(file.num_row_groups):
            count = file.metadata.row_group(number).num_rows
            if row is None or not first <= row < first + count:
                first += count
                continue
            for batch in file.iter_batches(group_rows(file, number, column), row_groups=[number], columns=[column]):
                while row is not None and row < first + batch.num_rows:
                    value = batch.column(0)[row - first].as_py()
                    yield value["bytes"] if isinstance(value, dict) else value
                    row = next(wanted, None)
                first += batch.num_rows
    if row is not None:
        raise OSError(f"{place} has changed since it was listed: it has no row {row}")


def _is_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        names = [kind.field(index).name for index in range(kind.num_fields)]
        return "bytes" in names and _is_bytes(kind.field("bytes").type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))
