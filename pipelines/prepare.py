"""Turn images, or images and masks, into a prepared dataset.

    overlay prepare BUSI --out dataset
    overlay prepare BUSI.zip s3://bucket/more --out s3://bucket/dataset
    overlay prepare clinic-a clinic-b --out dataset --overlay.style contour --split.group_by 'patient(\\d+)'

Two rounds of tasks. The first decodes, draws and encodes each image once and stages the rows in small files; the split
is then made over what survived; the second puts the staged rows into their shards, without decoding again. Each file
appears whole or not at all and `dataset.json` comes last, so a run that was killed goes on where it stopped.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from cluster import session
from overlay import __version__
from overlay.archives.entries import Span
from overlay.config import SPLITS, Prepare, table_column
from overlay.dataset.card import DATASET_FORMAT, DatasetCard, DatasetRequest, fingerprint, package_versions, write_card
from overlay.dataset.prepared import PreparedDataset, open_dataset
from overlay.dataset.schema import DATASET_MANIFEST_SCHEMA, REJECTED_SCHEMA
from overlay.duplicates.near_duplicates import find_near_duplicates, resolve_conflicts
from overlay.errors import RequestError, WorkError, faults_end_the_work
from overlay.preparation.contact_sheets import draw_classes, draw_duplicates
from overlay.preparation.division import split_dataset
from overlay.preparation.output_folder import WORK, already_prepared, begin_dataset
from overlay.preparation.splits import check_sizes, read_groups_of, read_splits
from overlay.preparation.staging import assemble_shard, read_staged, stage_part, staged_path, staged_rows, write_index
from overlay.preparation.summary import count_reasons, describe_sources, print_summary
from overlay.sources.labelled import Record, Rejected, list_labelled
from overlay.sources.listing import locate_source
from overlay.sources.read_plan import ReadUnit, plan_reads, remove_done
from overlay.storage.atomic import write_atomically
from overlay.storage.parquet import open_parquet
from overlay.storage.path import StoragePath
from overlay.version import code_fingerprint
from pipelines.runtime.progress import progress_meter
from pipelines.runtime.tasks import ThroughputMeter, read_inputs, run_in_parallel


class Listed(NamedTuple):
    """An image as it goes into the manifest."""

    record: Record
    group: str
    split: str | None

    @property
    def uri(self) -> str:
        """The file that it is read from."""
        return self.record.uri

    @property
    def spans(self) -> tuple[Span, ...] | None:
        """Where it lies in an archive."""
        return self.record.spans


@faults_end_the_work()
def run(config: Prepare) -> PreparedDataset:
    """Prepare a dataset in ``config.out``, or open it where the same request was prepared already.

    Raises:
        RequestError: the request was wrong; nothing was written.
        WorkError: the work failed; the same command goes on where it stopped.
    """
    collection = list_labelled(config.sources, config.limits)
    listed = _with_groups(collection.records, config)
    request = _request(config, listed)
    out = StoragePath.of(config.out)
    if already_prepared(out, request, config.overwrite):
        print(f"{out} is prepared already, from these files with these options; nothing to do")
        return open_dataset(out)
    print(describe_sources(collection))
    session.connect()

    staged = begin_dataset(out, request, config.overwrite)
    manifest = out / "manifest.parquet"
    units = _write_manifest(manifest, listed, staged_rows(len(listed), config.shard_rows))
    classes, unusable = collection.classes, collection.rejected
    del collection, listed  # the manifest has them, and a million would take a gigabyte
    _stage(manifest, units, staged, config)

    usable, broken = read_staged(staged, manifest)
    duplicates = find_near_duplicates(usable, config.duplicates.distance)
    with write_atomically(out / "duplicates.parquet") as temporary:
        pq.write_table(duplicates.table(), temporary)
    parts = usable["part"].to_numpy()
    draw_duplicates(duplicates, lambda place: staged_path(staged, parts[place]), out / "duplicates.png")
    try:
        survivors, contradicted = resolve_conflicts(usable, duplicates, config.duplicates.conflicts)
    except WorkError:
        staged.remove()  # the labels may be mended before the next run, by moving files
        raise
    del usable
    rejected = _write_rejected(out / "rejected.parquet", [broken, contradicted], unusable)
    try:
        divided, division = split_dataset(survivors, classes, config, duplicates)
    except RequestError as error:
        staged.remove()  # the files may be mended before the next run, which must look at them again then
        kinds = ", ".join(f"{count} {reason}" for reason, count in count_reasons(rejected).items())
        raise WorkError(
            f"{error}; rejected were: {kinds or 'none'}; see {out / 'rejected.parquet'}, and duplicates.parquet beside "
            "it for what makes the groups"
        ) from error
    parts = divided["part"].to_numpy()
    draw_classes(divided, lambda place: staged_path(staged, parts[place]), out / "contact_sheet.png")
    shards = write_index(staged, divided, config.shard_rows)
    calls = ((shard, staged, out) for shard in range(shards))
    _in_parallel(assemble_shard, calls, "writing", divided.num_rows)

    number = Counter(zip(divided["label"].to_pylist(), divided["split"].to_pylist(), strict=True))
    card = DatasetCard(
        format=DATASET_FORMAT,
        overlay_version=__version__,
        code=code_fingerprint(),
        fingerprint=fingerprint(divided),
        classes=classes,
        counts={label: {split: number[label, split] for split in SPLITS} for label in classes},
        groups=division.groups,
        largest_group=division.largest_group,
        near_duplicates=len(duplicates.pairs),
        all_pairs=duplicates.pairs.complete,
        identical=int(duplicates.identical.sum()),
        conflicts=int(duplicates.conflicts.sum()),
        deviation={side: round(points, 3) for side, points in division.deviation.items()},
        leaks=asdict(division.leaks),
        rejected=rejected.num_rows,
        parts=shards,
        request=request,
        versions=package_versions(),
    )
    write_card(out, card)
    (out / WORK).remove()
    dataset = open_dataset(out)
    print_summary(dataset, rejected, duplicates)
    return dataset


def _with_groups(records: Sequence[Record], config: Prepare) -> list[Listed]:
    """Give each image its group, and its split where the user has one of his own."""
    ids, paths = [record.id for record in records], [record.path for record in records]
    groups = read_groups_of(ids, paths, config.split.group_by)
    splits: Sequence[str | None] = [None] * len(ids)
    if config.split.column:
        splits = read_splits(ids, paths, config.split.column)
    else:
        check_sizes([record.label for record in records], groups, config.split.folds)
    return [Listed(*row) for row in zip(records, groups, splits, strict=True)]


def _request(config: Prepare, listed: Sequence[Listed]) -> DatasetRequest:
    names, tables = hashlib.sha256(), hashlib.sha256()
    for record, *told in listed:
        names.update(json.dumps([record.id, [StoragePath(mask).name for mask in record.masks]]).encode() + b"\n")
        tables.update(json.dumps(told).encode() + b"\n")
    from_table = config.split.column or table_column(config.split.group_by or "")
    return DatasetRequest(
        [str(locate_source(source, "source")) for source in config.sources],
        config.overlay,
        config.split,
        config.max_pixels,
        config.shard_rows,
        names.hexdigest(),
        config.duplicates,
        tables.hexdigest() if from_table else "",
    )


def _write_manifest(path: StoragePath, listed: Sequence[Listed], rows: int) -> list[ReadUnit]:
    """Write the manifest in groups of at most ``rows``, and return what a task is to read of it.

    Files and members that can be read in any order are mixed, by a hash of their ids: each shard then holds some of
    every class, as a training needs that reads the shards one after the other.
    """
    mixed = sorted(listed, key=lambda each: hashlib.sha256(each.record.id.encode()).digest())
    reading = plan_reads(mixed, rows)
    own = [name for name in DATASET_MANIFEST_SCHEMA.names if name not in ("group", "split", "spans")]
    with write_atomically(path) as temporary, pq.ParquetWriter(temporary, DATASET_MANIFEST_SCHEMA) as writer:
        for part in reading.groups:
            columns: dict[str, list[Any]] = {name: [getattr(each.record, name) for each in part] for name in own}
            columns["group"], columns["split"] = [each.group for each in part], [each.split for each in part]
            columns["spans"] = [each.spans and [asdict(span) for span in each.spans] for each in part]
            writer.write_table(pa.table(columns, schema=DATASET_MANIFEST_SCHEMA))
    return reading.units


def _stage(manifest: StoragePath, units: list[ReadUnit], staged: StoragePath, config: Prepare) -> None:
    file = open_parquet(manifest)
    sizes = [file.metadata.row_group(part).num_rows for part in range(file.num_row_groups)]
    there = set(staged.children())
    done = {part for part in range(len(sizes)) if staged_path(staged, part).name in there}
    if done:
        print(f"going on: {sum(sizes[part] for part in done)} of {sum(sizes)} images are done already")
    if todo := remove_done(units, done):
        left = sum(size for part, size in enumerate(sizes) if part not in done)
        calls = ((read, manifest, staged, config) for read in read_inputs(manifest, todo))
        _in_parallel(stage_part, calls, "drawing", left)


def _in_parallel(
    work: Callable[..., tuple[int, int]], calls: Iterable[tuple[Any, ...]], description: str, total: int
) -> None:
    """Do all calls, each of which tells how many images it did and rejected, and show how far they are.

    Raises:
        WorkError: one failed.
    """
    rejected, pace = 0, ThroughputMeter()
    try:
        with progress_meter(description, total) as meter:
            for done, refused in run_in_parallel(work, calls):
                rejected += refused
                fields = {"rejected": str(rejected)} if rejected else {}
                if rate := pace.rate(done):
                    fields["once started"] = f"{rate:.1f} images/s"
                meter.advance(done, **fields)
    except WorkError as error:
        raise WorkError(f"{error}; the same command goes on where it stopped") from error


def _write_rejected(path: StoragePath, tables: Sequence[pa.Table], unusable: Sequence[Rejected]) -> pa.Table:
    listed = pa.Table.from_pylist([asdict(row) for row in unusable], schema=REJECTED_SCHEMA)
    rejected = pa.concat_tables([listed, *(table.select(REJECTED_SCHEMA.names) for table in tables)]).sort_by("id")
    with write_atomically(path) as temporary:
        pq.write_table(rejected, temporary)
    return rejected
