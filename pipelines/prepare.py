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
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cluster import session
from overlay.config import SPLITS, Prepare, table_column
from overlay.dataset.card import (
    DatasetCard,
    DatasetContents,
    DatasetRequest,
    SplitSummary,
    fingerprint,
    write_card,
)
from overlay.dataset.prepared import PreparedDataset, open_dataset
from overlay.dataset.schema import REJECTED_SCHEMA
from overlay.duplicates.near_duplicates import NearDuplicates, find_near_duplicates, resolve_conflicts
from overlay.errors import RequestError, WorkError, faults_end_the_work
from overlay.images.ref import ImageRef
from overlay.preparation.contact_sheets import draw_classes, draw_duplicates
from overlay.preparation.division import split_dataset
from overlay.preparation.output_folder import WORK, already_prepared, begin_dataset, forget_request
from overlay.preparation.splits import ClassSizes
from overlay.preparation.staging import assemble_shard, read_staged, stage_part, staged_path, staged_rows, write_index
from overlay.preparation.summary import count_reasons, describe_sources, print_summary
from overlay.preparation.user_columns import GroupRule, SplitRule
from overlay.sources.inputs import Portion
from overlay.sources.labelled import ClassCounts, LabelledListing, list_labelled
from overlay.sources.manifest import Manifest, ManifestListing, publish_file, write_manifest
from overlay.sources.read_plan import archive_passes, remove_done
from overlay.sources.spool import RefSorter
from overlay.storage.atomic import write_atomically
from overlay.storage.parquet import open_parquet
from overlay.storage.path import StoragePath
from pipelines.runtime.progress import progress_meter
from pipelines.runtime.tasks import ThroughputMeter, read_inputs, run_in_parallel


@faults_end_the_work()
def run(config: Prepare) -> PreparedDataset:
    """Prepare a dataset in ``config.out``, or open it where the same request was prepared already.

    Raises:
        RequestError: the request was wrong; nothing was written.
        WorkError: the work failed; the same command goes on where it stopped.
    """
    out = StoragePath.of(config.out)
    with tempfile.TemporaryDirectory(prefix="overlay-") as temporary:
        listed = _list(config, Path(temporary))
        request = _request(config, listed)
        if already_prepared(out, request, config.overwrite):
            print(f"{out} is prepared already, from these files with these options; nothing to do")
            return open_dataset(out)
        print(describe_sources(listed.sources, listed.classes.usable))
        session.connect()
        staged = begin_dataset(out, request, config.overwrite)
        manifest = publish_file(listed.manifest.manifest, out / "manifest.parquet")
    job = _Job(config, request, listed, out, staged, manifest)
    _stage(job)
    split = _split(job)
    return _assemble(job, split)


@dataclass(frozen=True)
class _Listed:
    """Everything in the sources, before any image is opened."""

    sources: LabelledListing
    classes: ClassCounts
    manifest: ManifestListing
    tables: str
    """sha256 over the groups and splits of the user's own tables; empty without one"""


@dataclass(frozen=True)
class _Job:
    config: Prepare
    request: DatasetRequest
    listed: _Listed
    out: StoragePath
    staged: StoragePath
    """folder of the staged files"""
    manifest: Manifest


@dataclass(frozen=True)
class _Split:
    """Images that take part, with their split, and what does not."""

    images: pa.Table
    summary: SplitSummary
    duplicates: NearDuplicates
    rejected: pa.Table


def _list(config: Prepare, folder: Path) -> _Listed:
    """List the sources into a manifest in ``folder``, in the order of a hash of their ids.

    Each shard then holds some of every class, as a training needs that reads the shards one after the other.

    Raises:
        RequestError: a source, or a table of the user's own, can't be used, or a class is too small.
    """
    groups = GroupRule(config.split.group_by) if config.split.group_by else None
    splits = SplitRule(config.split.column) if config.split.column else None
    tables = hashlib.sha256()
    with progress_meter("listing", None) as meter:
        sources = list_labelled(config.sources, config.limits, folder)
        classes, sizes, sorter = ClassCounts(), ClassSizes(), RefSorter(folder)
        for ref, path in sources.read():
            classes.add(ref)
            group = split = None
            if ref.reason is None and ref.label is not None:
                group = groups.group(ref.id, path) if groups else None
                split = splits.split(ref.id, path) if splits else None
                sizes.add(ref.label, group)
            sorter.add(hashlib.sha256(ref.id.encode()).digest(), ref._replace(group=group, split=split))
        classes.check([str(source.place) for source in sources.sources])
        for rule in (groups, splits):
            if rule:
                rule.check_found()
        if splits is None:
            sizes.check(config.split.folds)
        rows = staged_rows(sum(classes.usable.values()), config.shard_rows)

        def portions() -> Iterator[Portion]:
            in_order: dict[str, list[ImageRef]] = {}
            for refs in sorter.read():
                for ref in refs:
                    tables.update(json.dumps([ref.id, ref.group, ref.split]).encode() + b"\n")
                    if ref.spans and ref.spans[0].in_order_only:
                        in_order.setdefault(ref.uri, []).append(ref)
                yield Portion([ref for ref in refs if not (ref.spans and ref.spans[0].in_order_only)])
            for of_one_archive in in_order.values():
                yield from (Portion(one_pass, in_order=True) for one_pass in archive_passes(of_one_archive))

        place = folder / "manifest.parquet"
        manifest = write_manifest(portions(), place, None, meter.advance_to, group_rows=rows)
    from_table = config.split.column or table_column(config.split.group_by or "")
    return _Listed(sources, classes, manifest, tables.hexdigest() if from_table else "")


def _request(config: Prepare, listed: _Listed) -> DatasetRequest:
    return DatasetRequest(
        [str(StoragePath.of(source)) for source in config.sources],
        config.overlay,
        config.split,
        config.max_pixels,
        config.shard_rows,
        listed.manifest.fingerprint,
        config.duplicates,
        listed.tables,
    )


def _stage(job: _Job) -> None:
    """Decode, draw and encode each image once, a row group of the manifest a task."""
    sizes = [len(job.manifest.rows_of(part)) for part in range(job.manifest.groups)]
    there = set(job.staged.children())
    done = {part for part in range(len(sizes)) if staged_path(job.staged, part).name in there}
    if done:
        print(f"going on: {sum(sizes[part] for part in done)} of {sum(sizes)} images are done already")
    if todo := remove_done(job.listed.manifest.units, done):
        left = sum(size for part, size in enumerate(sizes) if part not in done)
        calls = ((read, job.manifest, job.staged, job.config) for read in read_inputs(job.manifest, todo))
        _in_parallel(stage_part, calls, "drawing", left)


def _split(job: _Job) -> _Split:
    """Find near-duplicates among what was staged, settle conflicts, and split what is left.

    Raises:
        WorkError: conflicts are to stop the work, or a class has too few usable images.
    """
    usable, broken = read_staged(job.staged, job.manifest)
    duplicates = find_near_duplicates(usable, job.config.duplicates.distance)
    with write_atomically(job.out / "duplicates.parquet") as temporary:
        pq.write_table(duplicates.table(), temporary)
    parts = usable["part"].to_numpy()
    draw_duplicates(duplicates, lambda row: staged_path(job.staged, parts[row]), job.out / "duplicates.png")
    try:
        survivors, contradicted = resolve_conflicts(usable, duplicates, job.config.duplicates.conflicts)
    except WorkError:
        forget_request(job.out)  # the labels may be mended before the next run, by moving files
        raise
    del usable
    rejected = _write_rejected(job.out, broken, contradicted)
    try:
        images, summary = split_dataset(survivors, job.listed.classes.classes, job.config, duplicates)
    except RequestError as error:
        forget_request(job.out)  # the files may be mended before the next run
        kinds = ", ".join(f"{count} {reason}" for reason, count in count_reasons(rejected).items())
        raise WorkError(
            f"{error}; rejected were: {kinds or 'none'}; see {job.out / 'rejected.parquet'}, and duplicates.parquet "
            "beside it for what makes the groups"
        ) from error
    parts = images["part"].to_numpy()
    draw_classes(images, lambda row: staged_path(job.staged, parts[row]), job.out / "contact_sheet.png")
    return _Split(images, summary, duplicates, rejected)


def _assemble(job: _Job, split: _Split) -> PreparedDataset:
    """Write the shards and then the card, and remove what was staged."""
    shards = write_index(job.staged, split.images, job.config.shard_rows)
    calls = ((shard, job.staged, job.out) for shard in range(shards))
    _in_parallel(assemble_shard, calls, "writing", split.images.num_rows)
    counted = split.images.group_by(["label", "split"]).aggregate([([], "count_all")]).to_pylist()
    number = {(row["label"], row["split"]): row["count_all"] for row in counted}
    contents = DatasetContents(
        fingerprint=fingerprint(split.images),
        counts={label: {side: number.get((label, side), 0) for side in SPLITS} for label in job.listed.classes.classes},
        rejected=split.rejected.num_rows,
        parts=shards,
    )
    write_card(job.out, DatasetCard.create(job.request, contents, split.summary, split.duplicates))
    (job.out / WORK).remove()
    dataset = open_dataset(job.out)
    print_summary(dataset, split.rejected, split.duplicates)
    return dataset


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


def _write_rejected(out: StoragePath, broken: pa.Table, contradicted: pa.Table) -> pa.Table:
    ids = contradicted["id"]
    found = [REJECTED_SCHEMA.empty_table()]
    if len(ids):
        batches = open_parquet(out / "manifest.parquet").iter_batches(columns=["id", "uri"])
        places = pa.Table.from_batches([batch.filter(pc.is_in(batch["id"], ids.combine_chunks())) for batch in batches])
        found.append(contradicted.join(places, "id").select(REJECTED_SCHEMA.names).cast(REJECTED_SCHEMA))
    rejected = pa.concat_tables([broken.select(REJECTED_SCHEMA.names), *found]).sort_by("id")
    with write_atomically(out / "rejected.parquet") as temporary:
        pq.write_table(rejected, temporary)
    return rejected
