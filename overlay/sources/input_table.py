"""Parquet tables as inputs: image files, embedded or referred to, with masks, ids and labels.

A column of bytes is ``image`` (bytes, or Hugging Face's struct of bytes and path), ``bytes`` or ``image_bytes``; a
column of paths is ``uri``, ``path``, ``image_path``, ``image`` or ``file_name``; relative paths start at the table's
folder. Optional columns are ``mask`` or ``mask_path`` of the same kinds, ``id``, ``label`` (a text, or a number that
Hugging Face's ClassLabel names), and ``overlay`` as in a prepared dataset. Without ``id``, a row's path or number is
its id.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from overlay.dataset.prepared import open_dataset, part_path
from overlay.errors import ErrorKind, Reason, RequestError, one_line
from overlay.images.ref import ImageRef
from overlay.sources.data_address import REFUSED_VERSION, DataAddresses, RefusedAddress, shown_address
from overlay.sources.inputs import ListingRule, Portion, file_problem
from overlay.sources.parquet_images import (
    BYTES,
    EMBEDDED_MASK,
    PATHS,
    FileColumn,
    group_rows,
    image_column,
    mask_column,
    other_image_columns,
)
from overlay.storage.filenames import escape_name
from overlay.storage.parquet import class_label_names
from overlay.storage.path import StoragePath
from overlay.storage.walk import read_stamp

_BATCH = 1024
_NULL_BYTES = 64  # a column of nulls takes a few bytes a page


@dataclass(frozen=True)
class _Columns:
    """Columns of a table of images."""

    image: FileColumn
    mask: FileColumn | None
    key: str | None
    """column of the ids; None where rows are numbered"""
    texts: list[str]
    """columns of ids, labels, overlays and paths"""
    labels: list[str]
    """names of the labels by their numbers; empty where the labels are texts"""


@dataclass(frozen=True)
class _Rows:
    """Some rows of one row group."""

    row_group: int
    numbers: range
    batch: pa.RecordBatch
    """without the bytes of images"""


@dataclass(frozen=True)
class _File:
    """Image file of one row."""

    path: str | None
    embedded: bool


def list_table(place: StoragePath, rule: ListingRule, *, named: bool = True) -> Iterator[Portion]:
    """List the rows of a Parquet table; a row group of image bytes is read by one task.

    ``named``: whether the user named the table, so that one all of whose files lie outside the allowed folders is no
    request.

    Raises:
        RequestError: the table can't be read, has no column of images or several, two rows with equal ids, or a column
            of ids, labels or paths that is not text; or it is ``named`` and all its files lie outside.
    """
    file = _open_table(place)
    addresses = DataAddresses(place.parent, rule.roots)
    table = _Table(file, place, rule, _columns(file, place), addresses)
    read = [column.name for column in (table.columns.image, table.columns.mask) if column]
    first = 0
    for number in range(file.num_row_groups):
        in_table: list[ImageRef] = []
        for batch in _read_batches(file, place, number, table.columns.texts):
            refs = list(table.refs(_Rows(number, range(first, first + batch.num_rows), batch)))
            first += batch.num_rows
            in_table += [ref for ref in refs if ref.member]
            if in_files := [ref for ref in refs if not ref.member]:
                yield Portion(in_files, masks=sum(len(ref.masks) for ref in in_files))
        if in_table:
            masks = sum(len(ref.masks) for ref in in_table)
            yield Portion(in_table, in_order=True, group_rows=group_rows(file, number, read), masks=masks)
    if named:
        addresses.check(f"table {place}")


def list_dataset(place: StoragePath, rule: ListingRule) -> Iterator[Portion]:
    """List the rows of a prepared dataset.

    Raises:
        RequestError: the dataset is incomplete or damaged, or a newer version wrote it.
    """
    dataset = open_dataset(place.text)
    for part in range(dataset.card.parts):
        yield from list_table(part_path(place, part), rule, named=False)


def holds_images(place: StoragePath) -> bool:
    """Whether a Parquet table has a column of image bytes, or of Hugging Face's struct of bytes and path.

    Raises:
        RequestError: the table can't be read.
    """
    column = image_column(_open_table(place).schema_arrow)
    return column is not None and column.bytes


@dataclass(frozen=True)
class _Table:
    """Table of images that is listed."""

    file: pq.ParquetFile
    place: StoragePath
    rule: ListingRule
    columns: _Columns
    addresses: DataAddresses

    def refs(self, rows: _Rows) -> Iterator[ImageRef]:
        """Yield the image reference of each row."""
        uri, (_, version) = escape_name(str(self.place)), read_stamp(self.place)
        texts = {name: self._texts(rows.batch, name) for name in self.columns.texts}
        missing = [None] * len(rows.numbers)
        ids = texts[self.columns.key] if self.columns.key else list(map(str, rows.numbers))
        images = self._files(self.columns.image, rows)
        masks = self._files(self.columns.mask, rows) if self.columns.mask else missing
        labels, overlays = texts.get("label", missing), texts.get("overlay", missing)
        for position, number in enumerate(rows.numbers):
            drawn = overlays[position] not in (None, "none")
            id = f"{self.rule.prefix}{ids[position]}"
            if (shown := shown_address(id)) != escape_name(id):  # rows without their credentials may be equal
                shown = f"{shown} (row {number})"
            ref = ImageRef(
                id=shown,
                uri=uri,
                label=self.rule.label(self._name_label(labels[position])),
                source=self.rule.source,
                drawn=drawn,
                version=version,
            )
            ref = self._with_image(ref, number, images[position])
            mask = None if drawn else masks[position]
            yield self._with_mask(ref, mask) if mask and not ref.reason else ref

    def _name_label(self, label: str | None) -> str | None:
        names = self.columns.labels
        if label is None or not names:
            return label
        return names[int(label)] if 0 <= int(label) < len(names) else None

    def _files(self, column: FileColumn, rows: _Rows) -> list[_File | None]:
        """Return the image file of each row; None where it has none."""
        if not column.bytes:
            return [_File(path, embedded=False) if path else None for path in self._texts(rows.batch, column.name)]
        path = f"{column.name}.path"
        paths = self._texts(rows.batch, path) if path in self.columns.texts else [None] * len(rows.numbers)
        embedded = self._embedded(column, rows)
        return [_File(path, inside) if inside or path else None for path, inside in zip(paths, embedded, strict=True)]

    def _embedded(self, column: FileColumn, rows: _Rows) -> list[bool]:
        """Return for each row whether it has bytes; they are read only where the metadata leave it open."""
        metadata = self.file.metadata.row_group(rows.row_group)
        path = f"{column.name}.bytes" if column.struct else column.name
        chunks = (metadata.column(index) for index in range(metadata.num_columns))
        chunk = next(chunk for chunk in chunks if chunk.path_in_schema == path)
        if chunk.statistics is not None and chunk.statistics.has_null_count:
            nulls = chunk.statistics.null_count
        else:
            nulls = metadata.num_rows if chunk.total_uncompressed_size < _NULL_BYTES + metadata.num_rows else 0
        if nulls in (0, metadata.num_rows):
            return [nulls == 0] * len(rows.numbers)
        before = sum(self.file.metadata.row_group(number).num_rows for number in range(rows.row_group))
        found: list[bool] = []
        for batch in self.file.iter_batches(32, row_groups=[rows.row_group], columns=[path]):
            data = batch.column(0)
            found += pc.is_valid(pc.struct_field(data, "bytes") if column.struct else data).to_pylist()
        return found[rows.numbers.start - before :][: len(rows.numbers)]

    def _with_image(self, ref: ImageRef, number: int, image: _File | None) -> ImageRef:
        if image is not None and not image.embedded:
            return self._file_of_row(ref, image.path or "")
        if image is None and not self.columns.image.bytes:
            return ref._replace(reason=Reason("the row names no file", ErrorKind.REFUSED))
        empty = None if image else Reason("the row has no image", ErrorKind.REFUSED)
        return ref._replace(member=str(number), reason=empty)

    def _file_of_row(self, ref: ImageRef, path: str) -> ImageRef:
        try:
            place = self.addresses.locate(path)
        except RefusedAddress as error:
            return ref._replace(
                uri=shown_address(path), version=REFUSED_VERSION, reason=Reason(str(error), ErrorKind.REFUSED)
            )
        size, version = (None, None) if place.in_bucket else read_stamp(place)
        reason = file_problem(str(place), size, self.rule.limits)
        return ref._replace(uri=str(place), size=size, version=version, reason=reason)

    def _with_mask(self, ref: ImageRef, mask: _File) -> ImageRef:
        if mask.embedded and ref.member is None:
            said = "its mask is embedded in the table, and the image is not"
            return ref._replace(reason=Reason(said, ErrorKind.REFUSED))
        try:
            name = EMBEDDED_MASK if mask.embedded else str(self.addresses.locate(mask.path or ""))
        except RefusedAddress as error:
            return ref._replace(reason=Reason(f"{error} (its mask)", ErrorKind.REFUSED))
        return ref._replace(masks=(name,), drawn=True)

    def _texts(self, batch: pa.RecordBatch, name: str) -> list[str | None]:
        column, _, field = name.partition(".")
        values = pc.struct_field(batch.column(column), field) if field else batch.column(column)
        try:
            texts: list[str | None] = values.cast(pa.string()).to_pylist()
        except pa.ArrowException as error:
            raise RequestError(
                f"table {self.place} has no texts in its column {name} ({one_line(error)}); give it as text or numbers"
            ) from error
        return texts


def _columns(file: pq.ParquetFile, place: StoragePath) -> _Columns:
    schema = file.schema_arrow
    image, mask = image_column(schema), mask_column(schema)
    if image is None:
        raise RequestError(
            f"table {place} has no column of images; name one {', '.join(BYTES)} (bytes) or {', '.join(PATHS)} (paths)"
        )
    if others := other_image_columns(schema):
        raise RequestError(
            f"table {place} has images in {image.name} and in {', '.join(others)}; name the column of masks mask, and "
            "leave out any other"
        )
    key = "id" if "id" in schema.names else None if image.bytes else image.name
    if key is not None:
        _check_unique(file, place, key)
    texts = [name for name in (key, "label", "overlay") if name and name in schema.names]
    for column in (image, mask):
        if column and column.struct and schema.field(column.name).type.get_field_index("path") >= 0:
            texts.append(f"{column.name}.path")
        elif column and not column.bytes and column.name not in texts:
            texts.append(column.name)
    if key is None and f"{image.name}.path" in texts and _are_ids(file, f"{image.name}.path"):
        key = f"{image.name}.path"
    return _Columns(image, mask, key, texts, class_label_names(schema, "label"))


def _are_ids(file: pq.ParquetFile, name: str) -> bool:
    """Whether the paths of a column of structs are all there, and all different."""
    column, _, field = name.partition(".")
    paths = pc.struct_field(file.read(columns=[name])[column], field)
    return bool(paths.null_count == 0 and pc.count_distinct(paths).as_py() == len(paths))


def _check_unique(file: pq.ParquetFile, place: StoragePath, key: str) -> None:
    values = file.read(columns=[key]).column(0)
    if pc.count_distinct(values, mode="all").as_py() < len(values):
        counts = pc.value_counts(values)
        twice = next(each["values"].as_py() for each in counts if each["counts"].as_py() > 1)
        raise RequestError(f"table {place} has {twice!r} twice in its column {key}; give each row an id of its own")


def _read_batches(
    file: pq.ParquetFile, place: StoragePath, row_group: int, columns: list[str]
) -> Iterator[pa.RecordBatch]:
    try:
        yield from file.iter_batches(_BATCH, row_groups=[row_group], columns=columns)
    except (OSError, pa.ArrowException) as error:
        raise RequestError(f"table {place} can't be read: {one_line(error)}; give a whole Parquet file") from error


def _open_table(place: StoragePath) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(place.path, filesystem=place.filesystem)
    except (OSError, pa.ArrowException) as error:
        raise RequestError(f"table {place} can't be read: {one_line(error)}; give a Parquet file") from error
