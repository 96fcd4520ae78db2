"""Leakage check of a dataset, ours or another: near-duplicates, identical images and groups across splits.

    overlay prepare --check DATASET
    overlay prepare --check s3://bucket/all.parquet
    overlay prepare --check DATASET --split.group_by 'patient(\\d+)' --duplicates.distance 30

A dataset is a Parquet file, or a folder of them, with the columns image, label and split; the columns id and group are
optional. Near-duplicates, identical images and groups on two sides of a split are leakage, which makes test scores too
high. Nothing is written.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from cluster import session
from overlay.config import SPLITS, Prepare
from overlay.dataset.prepared import is_dataset
from overlay.duplicates.near_duplicates import Leakage, NearDuplicates, describe_pairs, find_leakage, search_pairs
from overlay.errors import ImageError, RequestError, WorkError, faults_end_the_work, one_line
from overlay.images.codec import decode_image
from overlay.images.hashing import perceptual_hash, pixels_digest
from overlay.preparation.splits import share_deviation
from overlay.preparation.staging import DIGEST
from overlay.preparation.user_columns import user_groups
from overlay.sources.resolve import locate_source
from overlay.storage.parquet import open_parquet
from overlay.storage.path import StoragePath
from pipelines.runtime.progress import progress_meter
from pipelines.runtime.room import await_tasks
from pipelines.runtime.tasks import run_in_parallel

DESCRIBED_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("id", "place", "label", "split", "group", "reason")),
        ("phash", DIGEST),
        ("pixels", DIGEST),
    ]
)
"""columns of a hashed image; ``place`` (file:row group:row) replaces ids that are not unique"""
NEEDED = ("image", "label", "split")
"""required columns"""
SHOWN = 5
"""most pairs that are printed, of each kind"""


@faults_end_the_work()
def run(config: Prepare) -> None:
    """Print class shares, near-duplicates and leakage of the dataset ``config.check``.

    Raises:
        RequestError: there is no such dataset, it lacks a column, or ``split.group_by`` is wrong.
        WorkError: the dataset has leakage or no readable image, or a task failed.
    """
    folder = locate_source(config.check or "", "check")
    ours = folder.is_folder() and is_dataset(folder)
    files = _files(folder)
    session.connect()
    await_tasks(config.cluster)
    table = _hash_files(files, config.max_pixels, ours)
    broken = table.filter(pc.is_valid(table["reason"]))["reason"].to_pylist()
    table = table.filter(pc.is_null(table["reason"])).sort_by("id").combine_chunks()
    if not table.num_rows:
        raise WorkError(f"{folder} holds no image that can be read; the first: {broken[0] if broken else ''}")
    ids, splits = table["id"].to_pylist(), table["split"].to_pylist()
    if config.split.group_by:
        groups = user_groups(ids, config.split)
    else:
        groups = pc.coalesce(table["group"], table["id"]).to_pylist()
    duplicates = describe_pairs(table, search_pairs(table["phash"], config.duplicates.distance))
    if ours:
        duplicates = replace(duplicates, identical=_identical_before_overlays(duplicates, folder))
    found = find_leakage(pa.array(splits, pa.string()), pa.array(groups, pa.string()), duplicates)

    console = Console(highlight=False, soft_wrap=True)
    console.print(_shares(table["label"].to_pylist(), splits))
    console.print(_counts(duplicates, found, len(set(groups))))
    apart = max(share_deviation(table["label"].to_pylist(), splits).values())
    console.print(f"class shares differ from the whole's by at most {apart:.1f} points")
    if broken:
        console.print(f"{len(broken)} images can't be read; the first: {broken[0]}", markup=False)
    if not duplicates.pairs.complete:
        console.print("only some of the millions of pairs were counted; the groups of near-duplicates are whole")
    for pair in [pair for pair in duplicates.order_by_conflict()[:1000] if duplicates.conflicts[pair]][:SHOWN]:
        console.print(f"different labels: {duplicates.describe(int(pair))}", markup=False)
    for pair in _pairs_across_splits(duplicates, splits)[:SHOWN]:
        where = " and ".join(splits[i] for i in duplicates.endpoints(pair))
        console.print(f"in {where}: {duplicates.describe(pair)}", markup=False)
    if found:
        raise WorkError(
            f"{folder} leaks: {found.pairs} pairs of near-duplicates, {found.identical} of them identical, and "
            f"{found.groups} groups lie on two sides of the split"
        )
    print(f"{folder} is clean: nothing lies on two sides of the split")


def hash_images(file: StoragePath, name: str, group: int, columns: Sequence[str], max_pixels: int) -> pa.Table:
    """Hash the images of one row group of a Parquet file (a Ray task).

    Returns the columns of `DESCRIBED_SCHEMA`; a row has a ``reason`` where its image can't be decoded.

    Raises:
        OSError: the file can't be read.
    """
    described = []
    number = 0
    for batch in open_parquet(file).iter_batches(batch_size=16, row_groups=[group], columns=list(columns)):
        for stored in batch.to_pylist():
            place = f"{name}:{group}:{number}"
            id = str(stored.get("id") or place)
            known: dict[str, str | bytes | None] = {
                "id": id,
                "place": place,
                "label": str(stored["label"]),
                "split": str(stored["split"]),
                "group": None if stored.get("group") is None else str(stored["group"]),
            }
            number += 1
            try:
                image = stored["image"]
                pixels = decode_image(
                    (image["bytes"] if isinstance(image, dict) else image) or b"", max_pixels=max_pixels
                )
                known["phash"] = bytes.fromhex(stored.get("phash") or perceptual_hash(pixels))
                known["pixels"] = bytes.fromhex(pixels_digest(pixels))
            except ImageError as error:
                known["reason"] = f"{id}: {error}"
            described.append(known)
    return pa.Table.from_pylist(described, schema=DESCRIBED_SCHEMA)


def _files(folder: StoragePath) -> list[tuple[StoragePath, str]]:
    """Return the Parquet files of a dataset and their names in it, after a check of their columns."""
    if folder.is_file():
        files = [(folder, folder.name)]
    else:
        inside = folder / "data" if is_dataset(folder) else folder
        files = [(inside / name, name) for name in sorted(inside.files()) if name.endswith(".parquet")]
    if not files:
        raise RequestError(
            f"check: {folder} holds no Parquet file; name a dataset with the columns {', '.join(NEEDED)}"
        )
    for file, _ in files:
        try:
            schema = open_parquet(file).schema_arrow
        except (OSError, pa.ArrowInvalid) as error:
            raise RequestError(f"check: {file} can't be read as Parquet: {one_line(error)}") from error
        if missing := [name for name in NEEDED if name not in schema.names]:
            raise RequestError(f"check: {file} has no column {missing[0]}; a dataset needs {', '.join(NEEDED)}")
        kind = schema.field("image").type
        if not (pa.types.is_struct(kind) and "bytes" in [kind[i].name for i in range(kind.num_fields)]) and not (
            pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
        ):
            raise RequestError(f"check: the column image of {file} is {kind}; it must hold the bytes of image files")
    return files


def _hash_files(files: Sequence[tuple[StoragePath, str]], max_pixels: int, ours: bool) -> pa.Table:
    # In our datasets phash is that of the image before its overlay was drawn.
    wanted = [*NEEDED, "id", "group", *(["phash"] if ours else [])]
    calls = []
    total = 0
    for file, name in files:
        parquet = open_parquet(file)
        total += parquet.metadata.num_rows
        columns = [column for column in wanted if column in parquet.schema_arrow.names]
        calls += [(file, name, group, columns, max_pixels) for group in range(parquet.num_row_groups)]
    tables = [DESCRIBED_SCHEMA.empty_table()]
    with progress_meter("hashing", total) as meter:
        for table in run_in_parallel(hash_images, calls):
            tables.append(table)
            meter.advance(table.num_rows)
    table = pa.concat_tables(tables)
    if pc.count_distinct(table["id"]).as_py() < table.num_rows:
        return table.set_column(0, "id", table["place"])
    return table


def _identical_before_overlays(duplicates: NearDuplicates, folder: StoragePath) -> NDArray[np.bool_]:
    """Return which pairs were identical before overlays were drawn, (pairs,), from ``duplicates.parquet``."""
    listed = open_parquet(folder / "duplicates.parquet").read(columns=["id_a", "id_b", "identical_pixels"])
    listed = listed.filter(listed["identical_pixels"])
    known = set(zip(listed["id_a"].to_pylist(), listed["id_b"].to_pylist(), strict=True))
    ends = (duplicates.endpoints(pair) for pair in range(len(duplicates.pairs)))
    return np.array([(str(duplicates.ids[a]), str(duplicates.ids[b])) in known for a, b in ends], bool)


def _shares(labels: Sequence[str], splits: Sequence[str]) -> Table:
    """Return a table of the number and the share of images of each class in each split."""
    counts, sizes = Counter(zip(labels, splits, strict=True)), Counter(splits)
    names = sorted(sizes, key=lambda name: (SPLITS.index(name) if name in SPLITS else len(SPLITS), name))
    table = Table("class", *(Column(Text(name)) for name in names), "all")  # no markup in names of data
    for column in table.columns[1:]:
        column.justify = "right"
    for label in sorted(set(labels)):
        whole = sum(counts[label, name] for name in names)
        shares = [f"{counts[label, name]} ({counts[label, name] / sizes[name]:.1%})" for name in names]
        table.add_row(Text(label), *shares, f"{whole} ({whole / len(labels):.1%})")
    table.add_section()
    table.add_row("all", *(str(sizes[name]) for name in names), str(len(labels)))
    return table


def _counts(duplicates: NearDuplicates, found: Leakage, groups: int) -> Table:
    table = Table("", "all", "on two sides")
    for column in table.columns[1:]:
        column.justify = "right"
    table.add_row("pairs of near-duplicates", str(len(duplicates.pairs)), str(found.pairs))
    table.add_row("pairs with identical pixels", str(int(duplicates.identical.sum())), str(found.identical))
    table.add_row("pairs with different labels", str(int(duplicates.conflicts.sum())), "")
    table.add_row("groups", str(groups), str(found.groups))
    return table


def _pairs_across_splits(duplicates: NearDuplicates, splits: Sequence[str]) -> list[int]:
    """Return the pairs on two sides of the split, by ascending distance."""
    order = (int(pair) for pair in duplicates.pairs.distance.argsort(kind="stable"))
    return [pair for pair in order if len({splits[i] for i in duplicates.endpoints(pair)}) > 1]
