"""Staging of a preparation: tasks that render images to staged files and assemble these to shards, and their index.

First each group of the manifest is read, drawn and hashed into one staged file. Near-duplicates and the split need the
small columns of these files only; the result is the index, of which so many rows are one shard. Then a shard is
assembled from staged files without decoding images again.
"""

from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from overlay.dataset.prepared import part_path
from overlay.dataset.schema import DATASET_SCHEMA, REJECTED_SCHEMA
from overlay.sources.manifest import Manifest
from overlay.storage.ahead import read_ahead
from overlay.storage.atomic import write_atomically, write_text_atomically
from overlay.storage.parquet import open_parquet, read_row_range, write_rows
from overlay.storage.path import StoragePath

_STAGING_COLUMNS = ("uri", "sha256", "pixels", "reason", "error_kind")
STAGED_SCHEMA = pa.schema([*DATASET_SCHEMA.remove_metadata(), *((name, pa.string()) for name in _STAGING_COLUMNS)])
"""columns of a staged file; split, fold and group are null, and so are all columns of `RenderedRow` in a row with a
reason"""
INDEX_SCHEMA = pa.schema(
    [("part", pa.int32()), *(DATASET_SCHEMA.field(name) for name in ("id", "split", "fold", "group"))]
)
"""columns of the index: staged file, split, fold and group of each usable row"""
_INDEX_ROW_GROUP = 16_384
"""rows of a row group of the index, about: one for each shard would make the footer, which each task reads, large"""
DIGEST = pa.binary(32)
"""type of a 256-bit hash"""
_DIGESTS = ("phash", "pixels")
_TEXTS_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("label", pa.string()),
        ("group", pa.string()),
        ("given_split", pa.string()),
        ("part", pa.int32()),
    ]
)
USABLE_SCHEMA = pa.schema([*_TEXTS_SCHEMA, *((name, DIGEST) for name in _DIGESTS)])
"""a staged row without its image, about 120 bytes, all that the driver keeps of it; ``group`` is null where the image
is a group of its own"""
_BATCH = 8  # images in memory at one time


def staged_rows(images: int, shard_rows: int) -> int:
    """Return how many images one staged file holds, which is the work of one task: 32 to 256.

    Few, so that a small dataset keeps all cores busy; more in a large one, which would have too many files and tasks.
    """
    return min(shard_rows, 256, max(32, images // 1000))


def staged_path(staged: StoragePath, part: int) -> StoragePath:
    """Return the path of one staged file, counted from 0."""
    return staged / f"part-{part:05d}.parquet"


def mark_unread(staged: StoragePath, part: int, *, unread: bool) -> None:
    """Mark a staged file as one some of whose inputs could not be read, or take the mark away.

    Raises:
        OSError: the mark can't be written or deleted.
    """
    mark = staged / f"part-{part:05d}.unread"
    if unread:
        write_text_atomically(mark, "")
    else:
        mark.remove()


def staged_parts(staged: StoragePath) -> set[int]:
    """Return the numbers of the staged files of an interrupted run, without the marked ones, which are staged again.

    Raises:
        OSError: the folder can't be read.
    """
    found = {ending: set[int]() for ending in (".parquet", ".unread")}
    for name in staged.children():
        stem, dot, ending = name.partition(".")
        if stem.startswith("part-"):
            found[dot + ending].add(int(stem.removeprefix("part-")))
    return found[".parquet"] - found[".unread"]


def read_staged(staged: StoragePath, manifest: Manifest) -> tuple[pa.Table, pa.Table]:
    """Return the usable rows, with `USABLE_SCHEMA`, and the rejected ones, with `REJECTED_SCHEMA`, sorted by id.

    Raises:
        OSError: a staged file or the manifest can't be read.
    """
    usable, rejected = [_TEXTS_SCHEMA.empty_table()], [REJECTED_SCHEMA.empty_table()]
    # In one block each: many small ones would leave the process's memory scattered.
    digests = {name: np.empty((manifest.rows, 32), np.uint8) for name in _DIGESTS}
    rows = 0

    def read(listed: tuple[int, pa.Table]) -> tuple[pa.Table, pa.Table]:
        part, own = listed
        table = open_parquet(staged_path(staged, part)).read(columns=[*REJECTED_SCHEMA.names, *_DIGESTS])
        table = table.append_column("group", own["group"]).append_column("given_split", own["split"])
        table = table.append_column("part", pa.array([part] * table.num_rows, pa.int32()))
        kept, broken = (table.filter(keep(table["reason"])) for keep in (pc.is_null, pc.is_valid))
        return kept, broken.select(REJECTED_SCHEMA.names)

    for kept, broken in read_ahead(staged, read, enumerate(manifest.iterate_groups(["group", "split"]))):
        usable.append(kept.select(_TEXTS_SCHEMA.names))
        for name in _DIGESTS:
            digests[name][rows : rows + len(kept)] = _parse_digests(kept[name])
        rows += len(kept)
        if broken.num_rows:  # an empty table has objects for each of its columns, too
            rejected.append(broken)
    table, order = _sorted(usable)
    for name in _DIGESTS:
        table = table.append_column(name, _digest_column(digests.pop(name)[:rows][order]))
    faults, _ = _sorted(rejected)
    pa.default_memory_pool().release_unused()  # memory of sorting, which the process would keep
    return table, faults


def read_stored_form(staged: StoragePath, images: pa.Table) -> tuple[pa.Array, dict[str, int]]:
    """Return the column sha256 of staged rows, 32 bytes each, and the number of images of each encoding.

    ``images``: a table with ``id`` and ``part``, sorted by ``id``, which is the order of the column.

    Raises:
        OSError: a staged file can't be read.
    """
    digests, encodings = np.empty((len(images), 32), np.uint8), Counter[str]()
    part_of = images["part"].to_numpy()
    by_part = np.argsort(part_of, kind="stable")
    parts, starts = np.unique(part_of[by_part], return_index=True)

    def read(part: int) -> pa.Table:
        return open_parquet(staged_path(staged, part)).read(columns=["id", "sha256", "encoding"])

    for stored, rows in zip(read_ahead(staged, read, parts.tolist()), np.split(by_part, starts[1:]), strict=True):
        ids = images["id"].take(pa.array(rows))
        found = stored.take(pc.index_in(ids, stored["id"].combine_chunks()))
        digests[rows] = _parse_digests(found["sha256"])
        encodings.update(found["encoding"].to_pylist())
    return _digest_column(digests), dict(sorted(encodings.items()))


def write_index(staged: StoragePath, divided: pa.Table, shard_rows: int) -> list[range]:
    """Write the index from rows with the columns of `INDEX_SCHEMA`; return which of its rows are each shard's.

    Raises:
        OSError: the index can't be written.
    """
    # Sorted by staged file, so that a shard is assembled from few of them.
    columns = divided.select(INDEX_SCHEMA.names)
    order = pc.sort_indices(columns, [("part", "ascending"), ("id", "ascending")])
    with write_atomically(_index_path(staged)) as temporary, pq.ParquetWriter(temporary, INDEX_SCHEMA) as writer:
        rows = shard_rows * max(1, _INDEX_ROW_GROUP // shard_rows)
        for start in range(0, len(order), rows):  # a sorted copy of the whole would be as large again
            writer.write_table(columns.take(order.slice(start, rows)).cast(INDEX_SCHEMA), row_group_size=rows)
    return [range(len(divided))[start : start + shard_rows] for start in range(0, len(divided), shard_rows)]


def assemble_shard(rows: range, shard: int, staged: StoragePath, out: StoragePath) -> tuple[int, int]:
    """Assemble some rows of the index, with split and group, to a shard; return the number of images, and 0.

    Raises:
        OSError: a staged file can't be read, or the shard can't be written.
    """
    with open_parquet(_index_path(staged)) as file:
        index = read_row_range(file, rows)
    with write_rows(part_path(out, shard), DATASET_SCHEMA) as written:
        for part in pc.unique(index["part"]).to_pylist():
            places = index.filter(pc.equal(index["part"], part))
            for batch in open_parquet(staged_path(staged, part)).iter_batches(batch_size=_BATCH):
                found = pc.index_in(batch["id"], places["id"].combine_chunks())
                kept = pa.Table.from_batches([batch]).filter(pc.is_valid(found))
                divided = places.take(pc.drop_null(found))
                for name in ("split", "fold", "group"):
                    kept = kept.set_column(kept.schema.get_field_index(name), DATASET_SCHEMA.field(name), divided[name])
                if kept.num_rows:
                    written.write_table(kept)
    return index.num_rows, 0


def _parse_digests(texts: pa.ChunkedArray) -> NDArray[np.uint8]:
    """Return hexadecimal digests as bytes, (n, 32)."""
    return np.frombuffer(bytes.fromhex("".join(texts.to_pylist())), np.uint8).reshape(-1, 32)


def _digest_column(digests: NDArray[np.uint8]) -> pa.FixedSizeBinaryArray:
    """Return digests, (n, 32), as a column, without a copy."""
    return pa.FixedSizeBinaryArray.from_buffers(DIGEST, len(digests), [None, pa.py_buffer(digests)])


def _sorted(tables: list[pa.Table]) -> tuple[pa.Table, NDArray[np.uint64]]:
    """Return the rows of all tables sorted by id, the first column, and their order; copies are of one column."""
    table = pa.concat_tables(tables)
    schema, columns = table.schema, table.columns
    del table
    tables.clear()
    order = pc.sort_indices(columns[0])
    for place in range(len(columns)):
        columns[place] = columns[place].combine_chunks()  # in its place, so that the chunks are freed
        columns[place] = columns[place].take(order)
    return pa.Table.from_arrays(columns, schema=schema), order.to_numpy()


def _index_path(staged: StoragePath) -> StoragePath:
    return staged.parent / "index.parquet"
