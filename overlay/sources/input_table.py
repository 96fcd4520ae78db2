"""Parquet tables as inputs of a prediction: tables of image bytes or of file paths.

A column of bytes is ``image`` (bytes, or Hugging Face's struct of bytes and path), ``bytes`` or ``image_bytes``; a
column of paths is ``uri``, ``path`` or ``image_path``; relative paths start at the table's folder. Optional columns are
``id``, ``label``, and ``overlay`` as in a prepared dataset. Without ``id``, a row's path or number is its id.
"""

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from overlay.dataset.prepared import open_dataset, part_path
from overlay.errors import RequestError, one_line
from overlay.images.ref import ImageRef
from overlay.sources.inputs import ListingRule, Portion, size_problem
from overlay.sources.parquet_images import BYTES, PATHS, group_rows, image_column
from overlay.storage.filenames import escape_name
from overlay.storage.path import StoragePath
from overlay.storage.walk import read_stamp

_BATCH = 1024


def list_table(place: StoragePath, rule: ListingRule) -> Iterator[Portion]:
    """List the rows of a Parquet table; a row group of image bytes is read by one task.

    Raises:
        RequestError: the table can't be read, has no column of images, two rows with equal ids, or a column of ids,
            labels or paths that is not text.
    """
    file = _open_table(place)
    column, holds_bytes = image_column(file.schema_arrow) or ("", False)
    if not column:
        raise RequestError(
            f"table {place} has no column of images; name one {', '.join(BYTES)} (bytes) or {', '.join(PATHS)} (paths)"
        )
    there = set(file.schema_arrow.names)
    key = "id" if "id" in there else None if holds_bytes else column
    if key is not None:
        _check_unique(file, place, key)
    columns = [name for name in (key, "label", "overlay", None if holds_bytes else column) if name in there]
    uri, (_, version) = escape_name(str(place)), read_stamp(place)
    first = 0
    for number in range(file.num_row_groups):
        images: list[ImageRef] = []
        for batch in file.iter_batches(_BATCH, row_groups=[number], columns=columns):
            values = {name: _texts(batch, name, place) for name in columns}
            for position in range(batch.num_rows):
                row = first + position
                fields = {name: each[position] for name, each in values.items()}
                image = ImageRef(
                    id=escape_name(f"{rule.prefix}{fields[key] if key else row}"),
                    uri=uri,
                    label=rule.label(fields.get("label"), ()),
                    source=rule.source,
                    drawn=fields.get("overlay") not in (None, "none"),
                    version=version,
                )
                images.append(
                    image._replace(member=str(row))
                    if holds_bytes
                    else _file_of_row(image, fields[column], place, rule.limits.member_bytes)
                )
            first += batch.num_rows
            if not holds_bytes:
                yield Portion(images)
                images = []
        if images:
            yield Portion(images, in_order=True, group_rows=group_rows(file, number, column))


def list_dataset(place: StoragePath, rule: ListingRule) -> Iterator[Portion]:
    """List the rows of a prepared dataset.

    Raises:
        RequestError: the dataset is incomplete or damaged, or a newer version wrote it.
    """
    dataset = open_dataset(place.text)
    for part in range(dataset.card.parts):
        yield from list_table(part_path(place, part), rule)


def holds_images(place: StoragePath) -> bool:
    """Whether a Parquet table has a column of image bytes.

    Raises:
        RequestError: the table can't be read.
    """
    return (image_column(_open_table(place).schema_arrow) or ("", False))[1]


def _file_of_row(image: ImageRef, path: str | None, table: StoragePath, most: int) -> ImageRef:
    if path is None:
        return image._replace(reason="the row names no file")
    try:
        place = StoragePath.of(path) if "://" in path or path.startswith("/") else table.parent / path
    except RequestError as error:
        return image._replace(reason=one_line(error))
    size, version = (None, None) if place.in_bucket else read_stamp(place)
    return image._replace(uri=str(place), size=size, version=version, reason=size_problem(size, most))


def _texts(batch: pa.RecordBatch, name: str | None, place: StoragePath) -> list[str | None]:
    try:
        texts: list[str | None] = batch.column(name).cast(pa.string()).to_pylist()
    except pa.ArrowException as error:
        raise RequestError(
            f"table {place} has no texts in its column {name} ({one_line(error)}); give it as text or numbers"
        ) from error
    return texts


def _check_unique(file: pq.ParquetFile, place: StoragePath, key: str) -> None:
    values = file.read(columns=[key]).column(0)
    if pc.count_distinct(values, mode="all").as_py() < len(values):
        counts = pc.value_counts(values)
        twice = next(each["values"].as_py() for each in counts if each["counts"].as_py() > 1)
        raise RequestError(f"table {place} has {twice!r} twice in its column {key}; give each row an id of its own")


def _open_table(place: StoragePath) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(place.path, filesystem=place.filesystem)
    except (OSError, pa.ArrowException) as error:
        raise RequestError(f"table {place} can't be read: {one_line(error)}; give a Parquet file") from error
