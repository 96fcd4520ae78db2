"""The two steps of prepare that touch images, as a worker takes them, and what lies between.

First each row group of the manifest is read, drawn and hashed into one staged file. From their small columns alone the
near-duplicates are found and the split is made; what comes of that is the index, each of whose row groups is a shard.
Then a shard is put together from staged files, whose images are not decoded again.
"""

import math
from collections.abc import Sequence
from itertools import repeat

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from overlay.config import Prepare
from overlay.dataset.prepared import part_path
from overlay.dataset.schema import DATASET_SCHEMA, REJECTED_SCHEMA
from overlay.errors import ImageError
from overlay.images.render import render_row
from overlay.sources.manifest import Manifest
from overlay.sources.reader import Reader
from overlay.storage.atomic import write_atomically
from overlay.storage.parquet import open_parquet, write_rows
from overlay.storage.path import StoragePath

_ON_THE_WAY = ("uri", "sha256", "pixels", "reason")
STAGED_SCHEMA = pa.schema([*DATASET_SCHEMA.remove_metadata(), *((name, pa.string()) for name in _ON_THE_WAY)])
"""a row on its way into ``data/``; split, fold and group are null, and with a reason all that comes from the pixels"""
INDEX_SCHEMA = pa.schema(
    [("part", pa.int32()), *(DATASET_SCHEMA.field(name) for name in ("id", "split", "fold", "group"))]
)
"""which staged file holds a row that survived, and where it goes; one row group is one shard"""
DIGEST = pa.binary(32)
USABLE_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("label", pa.string()),
        ("group", pa.string()),
        ("given_split", pa.string()),
        ("part", pa.int32()),
        ("phash", DIGEST),
        ("pixels", DIGEST),
        ("sha256", DIGEST),
    ]
)
"""a row that was staged, without its image: about 150 bytes, and all that the driver keeps of it; ``group`` is null
where the image is a group of its own"""
_DIGESTS = ("phash", "pixels", "sha256")
_BATCH = 8  # images in memory at one time


def staged_rows(images: int, shard_rows: int) -> int:
    """Return how many images one staged file holds, the unit of work.

    Few, so that a small set too keeps all cores busy; more in a large one, where files and tasks would be too many.
    """
    return min(shard_rows, 256, max(32, images // 1000))


def staged_path(staged: StoragePath, part: int) -> StoragePath:
    """Return the path of one staged file."""
    return staged / f"part-{part:05d}.parquet"


def stage_part(
    read: tuple[int, Sequence[Sequence[bytes]] | None], manifest: Manifest, staged: StoragePath, config: Prepare
) -> tuple[int, int]:
    """Render one row group of the manifest into a staged file; returns how many images, and how many were rejected.

    ``read`` has the number of the row group and, where they were read already, the bytes of each row's image and masks.
    Images that the listing rejected are not looked at, and not counted.

    Raises:
        OSError: something can't be read or written, for a cause that may pass.
    """
    part, contents = read
    done = rejected = 0
    refs = manifest.read_group(part)
    with (
        write_rows(staged_path(staged, part), STAGED_SCHEMA) as rows,
        Reader(config.limits.member_bytes) as reader,
    ):
        for ref, content in zip(refs, contents or repeat(None, len(refs)), strict=True):
            known = {"id": ref.id, "uri": ref.uri, "label": ref.label, "source": ref.source}
            if ref.reason is not None:
                rows.write(known | {"image": None, "reason": ref.reason})
                continue
            done += 1
            try:
                read_from = reader.of(ref, content)
                rows.write(known | render_row(ref, config.overlay, max_pixels=config.max_pixels, read=read_from))
            except ImageError as error:
                rejected += 1
                rows.write(known | {"image": None, "reason": str(error)})
    return done, rejected


def read_staged(staged: StoragePath, manifest: Manifest) -> tuple[pa.Table, pa.Table]:
    """Return the rows that can be used, as `USABLE_SCHEMA`, and the rejected ones, both in the order of their ids.

    Raises:
        OSError: a file can't be read.
    """
    usable, rejected = [USABLE_SCHEMA.empty_table()], [REJECTED_SCHEMA.empty_table()]
    listed = open_parquet(manifest.place)
    for part in range(manifest.groups):
        table = open_parquet(staged_path(staged, part)).read(columns=["id", "uri", "label", "reason", *_DIGESTS])
        told = listed.read_row_group(part, columns=["group", "split"])
        table = table.append_column("group", told["group"]).append_column("given_split", told["split"])
        table = table.append_column("part", pa.array([part] * table.num_rows, pa.int32()))
        rejected.append(table.filter(pc.is_valid(table["reason"])).select(REJECTED_SCHEMA.names))
        kept = table.filter(pc.is_null(table["reason"]))
        for name in _DIGESTS:
            digests = pa.array([bytes.fromhex(text) for text in kept[name].to_pylist()], DIGEST)
            kept = kept.set_column(kept.schema.get_field_index(name), name, digests)
        usable.append(kept.select(USABLE_SCHEMA.names))
    return _sorted(usable), _sorted(rejected)


def write_index(staged: StoragePath, divided: pa.Table, shard_rows: int) -> int:
    """Write the index from rows with the columns of `INDEX_SCHEMA`; returns the number of shards."""
    # A shard is put together from few staged files.
    index = divided.select(INDEX_SCHEMA.names).sort_by([("part", "ascending"), ("id", "ascending")])
    with write_atomically(_index_path(staged)) as temporary:
        pq.write_table(index.cast(INDEX_SCHEMA), temporary, row_group_size=shard_rows)
    return math.ceil(len(divided) / shard_rows)


def assemble_shard(shard: int, staged: StoragePath, out: StoragePath) -> tuple[int, int]:
    """Put one row group of the index, with split and group, into a shard; returns how many images, and 0.

    Raises:
        OSError: something can't be read or written.
    """
    index = open_parquet(_index_path(staged)).read_row_group(shard)
    with write_rows(part_path(out, shard), DATASET_SCHEMA) as rows:
        for part in pc.unique(index["part"]).to_pylist():
            places = index.filter(pc.equal(index["part"], part))
            for batch in open_parquet(staged_path(staged, part)).iter_batches(batch_size=_BATCH):
                found = pc.index_in(batch["id"], places["id"].combine_chunks())
                kept = pa.Table.from_batches([batch]).filter(pc.is_valid(found))
                divided = places.take(pc.drop_null(found))
                for name in ("split", "fold", "group"):
                    kept = kept.set_column(kept.schema.get_field_index(name), DATASET_SCHEMA.field(name), divided[name])
                if kept.num_rows:
                    rows.write_table(kept)
    return index.num_rows, 0


def _sorted(tables: list[pa.Table]) -> pa.Table:
    """Return the rows of all tables in the order of their ids; column after column, so that few are there twice."""
    table = pa.concat_tables(tables)
    schema, columns, order = table.schema, table.columns, pc.sort_indices(table["id"])
    del table
    tables.clear()
    for place, column in enumerate(columns):
        columns[place] = column.combine_chunks().take(order)
    return pa.Table.from_arrays(columns, schema=schema)


def _index_path(staged: StoragePath) -> StoragePath:
    return staged.parent / "index.parquet"
