"""Check a dataset, ours or made elsewhere, for what makes its test scores untrue; nothing is written.

    overlay prepare --check DATASET
    overlay prepare --check DATASET --split.group_by 'patient(\\d+)' --duplicates.distance 30

A dataset is a Parquet file, or a folder of them, with the columns image, label and split; id and group are used where
they are there. Near-duplicates, identical images and groups on two sides of a split are leaks.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray.data
from numpy.typing import NDArray
from ray.exceptions import RayError
from rich.console import Console
from rich.table import Table

from cluster import session
from overlay.config import SPLITS, Prepare
from overlay.dataset import is_dataset
from overlay.duplicates import Duplicates, Leaks, find, leaks
from overlay.errors import ImageError, RequestError, WorkError
from overlay.images import decode, perceptual_hash
from overlay.render import digest_of
from overlay.splits import deviation, groups_of
from pipelines.progress import progress

NEEDED = ("image", "label", "split")
SHOWN = 5


def run(config: Prepare) -> None:
    """Print what was found in the dataset ``config.check``.

    Raises:
        RequestError: there is no such dataset, or it lacks a column.
        WorkError: something lies on two sides of the split; or the work failed.
    """
    folder = Path(config.check or "").expanduser().absolute()
    files = _files(folder)
    session.connect()
    rows = _described(files, config.max_pixels)
    broken = [row for row in rows if row["reason"] is not None]
    rows = sorted((row for row in rows if row["reason"] is None), key=lambda row: row["id"])
    if not rows:
        raise WorkError(f"{folder} holds no image that can be read; the first: {broken[0]['reason'] if broken else ''}")
    ids = [row["id"] for row in rows]
    if config.split.group_by:
        groups = groups_of(ids, ids, config.split.group_by)
    else:
        groups = [row["group"] or row["id"] for row in rows]
    duplicates = find(rows, config.duplicates.distance)
    if is_dataset(folder):
        duplicates = replace(duplicates, identical=_identical_before_overlays(duplicates, folder))
    sides = {row["id"]: row["split"] for row in rows}
    found = leaks(sides, dict(zip(ids, groups, strict=True)), duplicates)

    console = Console(highlight=False, soft_wrap=True)
    console.print(_shares(rows))
    console.print(_counts(duplicates, found, len(set(groups))))
    apart = max(deviation(duplicates.labels, [row["split"] for row in rows]).values())
    console.print(f"class shares differ from the whole's by at most {apart:.1f} points")
    if broken:
        console.print(f"{len(broken)} images can't be read; the first: {broken[0]['reason']}", markup=False)
    if not duplicates.pairs.complete:
        console.print("only some of the millions of pairs were counted; the groups of near-duplicates are whole")
    for pair in [pair for pair in duplicates.conflicts_first()[:1000] if duplicates.conflicts[pair]][:SHOWN]:
        console.print(f"different labels: {duplicates.describe(int(pair))}", markup=False)
    for pair in _torn(duplicates, sides)[:SHOWN]:
        where = " and ".join(sides[duplicates.ids[i]] for i in _ends(duplicates, pair))
        console.print(f"in {where}: {duplicates.describe(pair)}", markup=False)
    if found:
        raise WorkError(
            f"{folder} leaks: {found.pairs} pairs of near-duplicates, {found.identical} of them identical, and "
            f"{found.groups} groups lie on two sides of the split"
        )
    print(f"{folder} is clean: nothing lies on two sides of the split")


def describe(
    row: dict[str, Any], tasks: list[tuple[str, str, int, list[str]]], max_pixels: int
) -> list[dict[str, Any]]:
    """Hash the images of one row group; runs in a worker. A row has a ``reason`` where its image can't be read."""
    file, name, group, columns = tasks[row["id"]]
    described = []
    parquet = pq.ParquetFile(file)
    number = 0
    for batch in parquet.iter_batches(batch_size=16, row_groups=[group], columns=columns):
        for stored in batch.to_pylist():
            known = {
                "id": str(stored.get("id") or f"{name}:{group}:{number}"),
                "place": f"{name}:{group}:{number}",
                "label": str(stored["label"]),
                "split": str(stored["split"]),
                "group": None if stored.get("group") is None else str(stored["group"]),
                "phash": "",
                "pixels": "",
                "reason": None,
            }
            number += 1
            try:
                image = stored["image"]
                pixels = decode((image["bytes"] if isinstance(image, dict) else image) or b"", max_pixels=max_pixels)
                known["phash"] = stored.get("phash") or perceptual_hash(pixels)
                known["pixels"] = digest_of(pixels)
            except ImageError as error:
                known["reason"] = f"{known['id']}: {error}"
            described.append(known)
    return described


def _files(folder: Path) -> list[tuple[str, str]]:
    """Return the Parquet files of a dataset, with their names in it, after a look at their columns."""
    if not folder.exists():
        raise RequestError(f"check: {folder} is not there; name a dataset: a folder of Parquet files, or one of them")
    inside = folder / "data" if is_dataset(folder) else folder
    files = [folder] if folder.is_file() else sorted(inside.rglob("*.parquet"))
    if not files:
        raise RequestError(
            f"check: {folder} holds no Parquet file; name a dataset with the columns {', '.join(NEEDED)}"
        )
    for file in files:
        try:
            schema = pq.read_schema(file)
        except (OSError, pa.ArrowInvalid) as error:
            raise RequestError(f"check: {file} can't be read as Parquet: {str(error).splitlines()[0]}") from error
        if missing := [name for name in NEEDED if name not in schema.names]:
            raise RequestError(f"check: {file} has no column {missing[0]}; a dataset needs {', '.join(NEEDED)}")
        kind = schema.field("image").type
        if not (pa.types.is_struct(kind) and "bytes" in [kind[i].name for i in range(kind.num_fields)]) and not (
            pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
        ):
            raise RequestError(f"check: the column image of {file} is {kind}; it must hold the bytes of image files")
    return [(str(file), file.relative_to(inside).as_posix() if inside.is_dir() else file.name) for file in files]


def _described(files: list[tuple[str, str]], max_pixels: int) -> list[dict[str, Any]]:
    tasks = []
    total = 0
    for file, name in files:
        parquet = pq.ParquetFile(file)
        total += parquet.metadata.num_rows
        # Our own perceptual hash is that of the image before its overlay was drawn.
        ours = is_dataset(Path(file).parent.parent)
        wanted = [*NEEDED, "id", "group", *(["phash"] if ours else [])]
        columns = [column for column in wanted if column in parquet.schema_arrow.names]
        tasks += [(file, name, group, columns) for group in range(parquet.num_row_groups)]
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    rows: list[dict[str, Any]] = []
    try:
        with progress("hashing", total) as meter:
            work: Callable[..., list[dict[str, Any]]] = describe
            described = ray.data.range(len(tasks), override_num_blocks=max(1, len(tasks))).flat_map(
                work, fn_kwargs={"tasks": tasks, "max_pixels": max_pixels}
            )
            for row in described.iter_rows():
                rows.append(row)
                meter.advance()
    except RayError as error:
        raise WorkError(f"a task failed: {str(error).strip().splitlines()[-1].strip()}") from error
    if len({row["id"] for row in rows}) < len(rows):
        return [row | {"id": row["place"]} for row in rows]
    return rows


def _identical_before_overlays(duplicates: Duplicates, folder: Path) -> NDArray[np.bool_]:
    """Return which pairs `prepare` found identical, since two masks on one image make two images of it."""
    listed = pq.read_table(folder / "duplicates.parquet", filters=[("identical_pixels", "==", True)])
    known = set(zip(listed["id_a"].to_pylist(), listed["id_b"].to_pylist(), strict=True))
    pairs = zip(duplicates.pairs.first.tolist(), duplicates.pairs.second.tolist(), strict=True)
    return np.array([(duplicates.ids[a], duplicates.ids[b]) in known for a, b in pairs], bool)


def _shares(rows: list[dict[str, Any]]) -> Table:
    """Return the images, and the share, of each class in each split."""
    counts = Counter((row["label"], row["split"]) for row in rows)
    sizes = Counter(row["split"] for row in rows)
    names = sorted(sizes, key=lambda name: (SPLITS.index(name) if name in SPLITS else len(SPLITS), name))
    table = Table("class", *names, "all")
    for column in table.columns[1:]:
        column.justify = "right"
    for label in sorted({row["label"] for row in rows}):
        whole = sum(counts[label, name] for name in names)
        shares = [f"{counts[label, name]} ({counts[label, name] / sizes[name]:.1%})" for name in names]
        table.add_row(label, *shares, f"{whole} ({whole / len(rows):.1%})")
    table.add_section()
    table.add_row("all", *(str(sizes[name]) for name in names), str(len(rows)))
    return table


def _counts(duplicates: Duplicates, found: Leaks, groups: int) -> Table:
    table = Table("", "all", "on two sides")
    for column in table.columns[1:]:
        column.justify = "right"
    table.add_row("pairs of near-duplicates", str(len(duplicates.pairs)), str(found.pairs))
    table.add_row("pairs with identical pixels", str(int(duplicates.identical.sum())), str(found.identical))
    table.add_row("pairs with different labels", str(int(duplicates.conflicts.sum())), "")
    table.add_row("groups", str(groups), str(found.groups))
    return table


def _torn(duplicates: Duplicates, sides: dict[str, str]) -> list[int]:
    """Return the places of the pairs on two sides, the nearest first."""
    order = (int(pair) for pair in duplicates.pairs.distance.argsort(kind="stable"))
    return [pair for pair in order if len({sides[duplicates.ids[i]] for i in _ends(duplicates, pair)}) > 1]


def _ends(duplicates: Duplicates, pair: int) -> tuple[int, int]:
    return int(duplicates.pairs.first[pair]), int(duplicates.pairs.second[pair])
