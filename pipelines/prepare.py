"""Turn images, or images and masks, into a prepared dataset.

    overlay prepare BUSI --out dataset
    overlay prepare BUSI.zip s3://bucket/more --out s3://bucket/dataset
    overlay prepare clinic-a clinic-b --out dataset --overlay.style contour --split.group_by 'patient(\\d+)'

Two passes of Ray Data. The first decodes, draws and encodes each image once and stages the rows in small files; the
split is then made over what survived; the second puts the staged rows into their shards, without decoding again. Each
file appears whole or not at all and `dataset.json` comes last, so a run that was killed goes on where it stopped.
"""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from itertools import groupby
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import ray.data
from ray.exceptions import RayError
from rich.console import Console
from rich.table import Table

from cluster import session
from overlay.config import SPLITS, Prepare, table_column
from overlay.dataset import (
    FORMAT,
    MANIFEST_SCHEMA,
    REJECTED_SCHEMA,
    SCHEMA,
    STAGED_SCHEMA,
    Card,
    PreparedDataset,
    Request,
    fingerprint,
    open_dataset,
    package_versions,
    part_path,
    write_card,
    write_rows,
)
from overlay.dataset_folder import WORK, already_prepared, begin
from overlay.division import divide, settle
from overlay.duplicates import Duplicates, find
from overlay.errors import ImageError, RequestError, WorkError
from overlay.listing import locate
from overlay.reading import Reader, Unit, plan, without
from overlay.render import render
from overlay.sheets import draw_classes, draw_duplicates
from overlay.sources import Collection, Record, collect
from overlay.splits import check_sizes, given_splits, groups_of
from overlay.storage import Place, faults_end_the_work, open_parquet, write_atomically
from pipelines.progress import progress
from pipelines.reading import Groups, read_groups

STAGED_ROWS = 32
"""images in one staged file, the unit of work: small, so that a small set too keeps all cores busy"""
INDEX_SCHEMA = pa.schema([("part", pa.int64()), *(SCHEMA.field(name) for name in ("id", "split", "fold", "group"))])
"""which staged file holds a row that survived, and where it goes; one row group is one shard"""


@faults_end_the_work()
def run(config: Prepare) -> PreparedDataset:
    """Prepare a dataset in ``config.out``, or open it where the same request was prepared already.

    Raises:
        RequestError: the request was wrong; nothing was written.
        WorkError: the work failed; the same command goes on where it stopped.
    """
    collection = collect(config.sources, config.limits)
    records = collection.records
    ids, paths = [record.id for record in records], [record.path for record in records]
    groups = groups_of(ids, paths, config.split.group_by)
    own = dict(zip(ids, given_splits(ids, paths, config.split.column), strict=True)) if config.split.column else {}
    if not own:
        check_sizes([record.label for record in records], groups, config.split.folds)
    request = _request(config, records, groups, own)
    out = Place.of(config.out)
    if already_prepared(out, request, config.overwrite):
        print(f"{out} is prepared already, from these files with these options; nothing to do")
        return open_dataset(out)
    print(_found(collection))
    session.connect()

    staged = begin(out, request, config.overwrite)
    manifest = out / "manifest.parquet"
    reading = plan(records, min(STAGED_ROWS, config.shard_rows))
    _write_manifest(manifest, reading.groups, dict(zip(ids, groups, strict=True)))
    _stage(manifest, reading.units, staged, config)

    usable, broken = _read_staged(staged, manifest)
    duplicates = find(usable, config.duplicates.distance)
    with write_atomically(out / "duplicates.parquet") as temporary:
        pq.write_table(duplicates.table(), temporary)
    parts_of = {row["id"]: _staged_path(staged, row["part"]) for row in usable}
    draw_duplicates(duplicates, parts_of, out / "duplicates.png")
    try:
        survivors, contradicted = settle(usable, duplicates, config.duplicates.conflicts)
    except WorkError:
        staged.remove()  # the labels may be mended before the next run, by moving files
        raise
    rejected = sorted([*broken, *contradicted, *map(asdict, collection.rejected)], key=lambda row: row["id"])
    _write(out / "rejected.parquet", rejected, REJECTED_SCHEMA, len(rejected) or 1)
    try:
        division = divide(survivors, collection.classes, config, own, duplicates)
    except RequestError as error:
        staged.remove()  # the files may be mended before the next run, which must look at them again then
        kinds = ", ".join(f"{count} {reason}" for reason, count in _reasons(rejected).items())
        raise WorkError(
            f"{error}; rejected were: {kinds or 'none'}; see {out / 'rejected.parquet'}, and duplicates.parquet beside "
            "it for what makes the groups"
        ) from error
    draw_classes(survivors, parts_of, out / "contact_sheet.png")
    survivors.sort(key=lambda row: row["part"])  # a shard is put together from few staged files
    _write(_index_path(staged), survivors, INDEX_SCHEMA, config.shard_rows)
    parts = math.ceil(len(survivors) / config.shard_rows)
    shards = Groups(ray.data.range(parts, override_num_blocks=parts))
    _in_parallel(assemble_shard, shards, {"staged": staged, "out": out}, "writing", len(survivors))

    counts = {label: dict.fromkeys(SPLITS, 0) for label in collection.classes}
    for row in survivors:
        counts[row["label"]][row["split"]] += 1
    card = Card(
        format=FORMAT,
        overlay_version=version("overlay"),
        fingerprint=fingerprint((r["id"], r["label"], _side(r), r["group"], r["sha256"]) for r in survivors),
        classes=collection.classes,
        counts=counts,
        groups=division.groups,
        largest_group=division.largest_group,
        near_duplicates=len(duplicates.pairs),
        all_pairs=duplicates.pairs.complete,
        identical=int(duplicates.identical.sum()),
        conflicts=int(duplicates.conflicts.sum()),
        deviation={side: round(points, 3) for side, points in division.deviation.items()},
        leaks=asdict(division.leaks),
        rejected=len(rejected),
        parts=parts,
        request=request,
        versions=package_versions(),
    )
    write_card(out, card)
    (out / WORK).remove()
    dataset = open_dataset(out)
    _print_summary(dataset, rejected, duplicates)
    return dataset


def stage_part(row: dict[str, Any], manifest: Place, staged: Place, config: Prepare) -> dict[str, Any]:
    """Render one row group of the manifest into a staged file; runs in a worker. Returns counts, or the ``failure``."""
    part = row["group"]
    rejected = 0
    try:
        sources = open_parquet(manifest).read_row_group(part).to_pylist()
        contents = row["contents"] or [None] * len(sources)
        with write_rows(_staged_path(staged, part), STAGED_SCHEMA) as rows, Reader() as reader:
            for source, content in zip(sources, contents, strict=True):
                known = {name: source[name] for name in ("id", "uri", "label", "source")}
                name, read = source["member"] or source["uri"], reader.of(source, content)
                try:
                    rendered = render(source["id"], name, source["masks"], config.overlay, config.max_pixels, read)
                    rows.write(known | rendered)
                except ImageError as error:
                    rejected += 1
                    rows.write(known | {"image": None, "reason": str(error)})
    except OSError as error:
        return {"rows": 0, "rejected": 0, "failure": str(error)}
    return {"rows": len(sources), "rejected": rejected, "failure": ""}


def assemble_shard(row: dict[str, Any], staged: Place, out: Place) -> dict[str, Any]:
    """Put one row group of the index, with split and group, into a shard; runs in a worker. Returns as `stage_part`."""
    shard = row["id"]
    try:
        index = open_parquet(_index_path(staged)).read_row_group(shard).to_pylist()
        with write_rows(part_path(out, shard), SCHEMA) as rows:
            for part, places in groupby(index, key=lambda place: place["part"]):
                wanted = {place["id"]: place for place in places}
                for batch in open_parquet(_staged_path(staged, part)).iter_batches(batch_size=8):
                    for staged_row in batch.to_pylist():
                        if place := wanted.get(staged_row["id"]):
                            rendered = {name: staged_row[name] for name in SCHEMA.names}
                            rows.write(rendered | {name: place[name] for name in ("split", "fold", "group")})
    except OSError as error:
        return {"rows": 0, "rejected": 0, "failure": str(error)}
    return {"rows": len(index), "rejected": 0, "failure": ""}


def _in_parallel(
    work: Callable[..., dict[str, Any]], tasks: Groups, arguments: dict[str, Any], description: str, total: int
) -> None:
    """Run a task for each row as Ray Data, and show how many images are done.

    Raises:
        WorkError: a task failed.
    """
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    rejected = 0
    try:
        with progress(description, total) as meter:
            results = tasks.rows.map(work, fn_kwargs=arguments, num_cpus=tasks.cpus)
            for result in results.iter_rows():
                if result["failure"]:
                    raise WorkError(f"{result['failure']}; the same command goes on where it stopped")
                rejected += result["rejected"]
                fields = {"rejected": str(rejected)} if rejected else {}
                meter.advance(result["rows"], **fields)
    except RayError as error:
        said = [line for line in str(error).splitlines() if line.strip()]
        raise WorkError(f"a task failed: {said[-1].strip()}; the same command goes on where it stopped") from error


def _stage(manifest: Place, units: list[Unit], staged: Place, config: Prepare) -> None:
    file = open_parquet(manifest)
    sizes = [file.metadata.row_group(part).num_rows for part in range(file.num_row_groups)]
    there = set(staged.children())
    done = {part for part in range(len(sizes)) if _staged_path(staged, part).name in there}
    if done:
        print(f"going on: {sum(sizes[part] for part in done)} of {sum(sizes)} images are done already")
    if todo := without(units, done):
        left = sum(size for part, size in enumerate(sizes) if part not in done)
        arguments = {"manifest": manifest, "staged": staged, "config": config}
        _in_parallel(stage_part, read_groups(manifest, todo), arguments, "drawing", left)


def _read_staged(staged: Place, manifest: Place) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the rows that survived, without their images, in the order of their ids, and the rejected ones."""
    survivors: list[dict[str, Any]] = []
    rejected: list[dict[str, Any]] = []
    groups = open_parquet(manifest).read(columns=["group"])["group"].to_pylist()
    for part in range(open_parquet(manifest).num_row_groups):
        columns = ["id", "uri", "label", "phash", "sha256", "pixels", "reason"]
        table = open_parquet(_staged_path(staged, part)).read(columns=columns)
        for row in table.to_pylist():
            group = groups[len(survivors) + len(rejected)]
            if row["reason"] is None:
                survivors.append(row | {"part": part, "group": group})
            else:
                rejected.append({name: row[name] for name in REJECTED_SCHEMA.names})
    survivors.sort(key=lambda row: row["id"])
    return survivors, rejected


def _side(row: dict[str, Any]) -> str:
    """Return where a row lies, for the fingerprint: its fold, or its split."""
    return row["split"] if row["fold"] is None else f"fold {row['fold']}"


def _request(config: Prepare, records: list[Record], groups: list[str], own: dict[str, str]) -> Request:
    names = hashlib.sha256()
    for record in records:
        names.update(json.dumps([record.id, [Place(mask).name for mask in record.masks]]).encode() + b"\n")
    tables = ""
    if own or table_column(config.split.group_by or ""):
        tables = hashlib.sha256(json.dumps([groups, own]).encode()).hexdigest()
    return Request(
        [str(locate(source, "source")) for source in config.sources],
        config.overlay,
        config.split,
        config.max_pixels,
        config.shard_rows,
        names.hexdigest(),
        config.duplicates,
        tables,
    )


def _write_manifest(path: Place, parts: list[list[Record]], group_of: dict[str, str]) -> None:
    with write_atomically(path) as temporary, pq.ParquetWriter(temporary, MANIFEST_SCHEMA) as writer:
        for part in parts:
            rows = [asdict(record) | {"group": group_of[record.id]} for record in part]
            writer.write_table(pa.Table.from_pylist(rows, schema=MANIFEST_SCHEMA))


def _write(path: Place, rows: list[dict[str, Any]], schema: pa.Schema, row_group_size: int) -> None:
    with write_atomically(path) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), temporary, row_group_size=row_group_size)


def _staged_path(staged: Place, part: int) -> Place:
    return staged / f"part-{part:05d}.parquet"


def _index_path(staged: Place) -> Place:
    return staged.parent / "index.parquet"


def _found(collection: Collection) -> str:
    counts = Counter(record.label for record in collection.records)
    classes = ", ".join(f"{counts[label]} {label}" for label in collection.classes)
    passed_over = f"; {collection.passed_over} other files passed over" if collection.passed_over else ""
    return f"{collection.images} images ({classes}) and {collection.masks} masks{passed_over}"


def _reasons(rejected: list[dict[str, Any]]) -> dict[str, int]:
    """Count the reasons by their kind, which stands before the colon."""
    return dict(Counter(row["reason"].split(":")[0] for row in rejected).most_common())


def _print_summary(dataset: PreparedDataset, rejected: list[dict[str, Any]], duplicates: Duplicates) -> None:
    card = dataset.card
    table = Table("class", *SPLITS, "all")
    for column in table.columns[1:]:
        column.justify = "right"
    for label, counts in card.counts.items():
        table.add_row(label, *(str(counts[name]) for name in SPLITS), str(sum(counts.values())))
    sums = [sum(counts[name] for counts in card.counts.values()) for name in SPLITS]
    table.add_section()
    table.add_row("all", *map(str, sums), str(sum(sums)))
    console = Console(highlight=False, soft_wrap=True)
    console.print(table)
    for line in _findings(card, duplicates):
        console.print(line, markup=False)
    for reason, count in _reasons(rejected).items():
        console.print(f"{count} rejected: {reason}", markup=False)
    console.print(f"prepared dataset: {dataset.path} (fingerprint {card.fingerprint[:12]})", markup=False)


def _findings(card: Card, duplicates: Duplicates) -> list[str]:
    """Say what was found out about the division and the near-duplicates."""
    torn = card.leaks
    more = "" if card.all_pairs else "more than "
    lines = [
        f"class shares differ from the whole's by at most {max(card.deviation.values()):.1f} points",
        f"{more}{card.near_duplicates} pairs of near-duplicates, {card.identical} of them identical; {card.groups} "
        f"groups, the largest of {card.largest_group}",
    ]
    if card.conflicts:
        lines.append(f"{card.conflicts} pairs have different labels (see duplicates.png and duplicates.parquet):")
        lines += [
            f"  {duplicates.describe(int(pair))}" for pair in duplicates.conflicts_first()[: min(5, card.conflicts)]
        ]
    if any(torn.values()):
        lines.append(
            f"LEAKS: split.column puts {torn['pairs']} pairs of near-duplicates ({torn['identical']} identical) and "
            f"{torn['groups']} groups on two sides"
        )
    return lines
