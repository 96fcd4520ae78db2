"""Preparation of a dataset: images, or images and masks, to Parquet shards with a group split.

    overlay prepare BUSI --out dataset
    overlay prepare BUSI.zip s3://bucket/more --out s3://bucket/dataset
    overlay prepare clinic-a clinic-b --out dataset --overlay.style contour --split.group_by 'patient(\\d+)'

Two rounds of tasks. The first decodes, draws and encodes each image once, and stages the rows in small files; then the
usable images are split; the second round assembles the staged rows to shards, without decoding again. Each file is
written atomically and `dataset.json` comes last, so that a killed run is resumed by the same command.
"""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cluster import session
from overlay.config import SPLITS, Prepare
from overlay.dataset.card import (
    DatasetCard,
    DatasetContents,
    DatasetRequest,
    SplitSummary,
    fingerprint,
    write_card,
)
from overlay.dataset.prepared import PreparedDataset, open_dataset
from overlay.duplicates.near_duplicates import NearDuplicates, describe_pairs, resolve_conflicts
from overlay.errors import ErrorKind, RequestError, WorkError, faults_end_the_work, saved_if_interrupted
from overlay.images.webp import check_webp
from overlay.preparation.contact_sheets import draw_classes, draw_duplicates
from overlay.preparation.division import split_dataset
from overlay.preparation.listing import ListedSources, create_request, list_sources
from overlay.preparation.mask_checks import count_masks
from overlay.preparation.output_folder import WORK, already_prepared, begin_dataset, forget_request, write_rejected
from overlay.preparation.staging import (
    assemble_shard,
    read_staged,
    read_stored_form,
    staged_parts,
    staged_path,
    write_index,
)
from overlay.preparation.summary import count_reasons, describe_sources, print_summary
from overlay.sources.input_bytes import image_bytes
from overlay.sources.labelled import ClassCounts
from overlay.sources.manifest import Manifest, publish_file
from overlay.sources.read_plan import remove_done
from overlay.storage.atomic import write_atomically
from overlay.storage.command_folder import command_folder
from overlay.storage.disk_space import check_free_space
from overlay.storage.folder_lock import FolderLock
from overlay.storage.path import StoragePath
from pipelines.runtime.command_log import log_into
from pipelines.runtime.duplicate_tasks import search_in_tasks
from pipelines.runtime.progress import progress_meter
from pipelines.runtime.room import await_tasks
from pipelines.runtime.shared_disk import check_shared_disk
from pipelines.runtime.stage_tasks import stage_groups
from pipelines.runtime.tasks import ThroughputMeter, run_in_parallel


@faults_end_the_work()
def run(config: Prepare, accept: Callable[[ClassCounts], None] = lambda _: None) -> PreparedDataset:
    """Prepare a dataset in ``config.out``, or open it where the same request was prepared already.

    ``accept`` is called once the images are listed, and raises RequestError where these won't do.

    Raises:
        RequestError: an option or a source is wrong; nothing was written.
        WorkError: a task, the storage or the split failed; the same command resumes.
    """
    with FolderLock(StoragePath.of(config.out), "prepare") as lock:
        return _prepare(config, accept, lock)


def _prepare(config: Prepare, accept: Callable[[ClassCounts], None], lock: FolderLock) -> PreparedDataset:
    out = StoragePath.of(config.out)
    if config.encoding == "webp":
        check_webp()
    with command_folder() as temporary:
        with progress_meter("listing", None) as meter:
            listed = list_sources(config, temporary, meter.advance_to)
        accept(listed.classes)
        request = create_request(config, listed)
        lock.take()
        if already_prepared(out, request, config.overwrite):
            print(f"{out} is prepared already, from these files with these options; nothing to do")
            return open_dataset(out)
        if (unread := listed.manifest.unreadable) > config.max_unreadable:
            raise WorkError(
                f"{unread} archives, tables or folders of the sources can't be read, and max_unreadable is "
                f"{config.max_unreadable}; check them and their permissions"
            )
        print("\n".join([describe_sources(listed.sources, listed.classes.usable), *listed.remarks]))
        # The staged images are deleted once all shards are there.
        check_free_space(out, 2 * image_bytes(listed.manifest.manifest), "the dataset, while it is made,")
        session.connect()
        await_tasks(config.cluster)
        sources = [("sources", StoragePath.of(source)) for source in config.sources]
        check_shared_disk(read=sources, written=[("out", out)])
        staged = begin_dataset(out, request, config.overwrite)
        log_into(out)
        manifest = publish_file(listed.manifest.manifest, out / "manifest.parquet")
    job = _Job(config, request, listed, out, staged, manifest)
    _stage(job)
    split = _split(job)
    return _assemble(job, split)


@dataclass(frozen=True)
class _Job:
    config: Prepare
    request: DatasetRequest
    listed: ListedSources
    out: StoragePath
    staged: StoragePath
    """folder of the staged files"""
    manifest: Manifest


@dataclass(frozen=True)
class _Split:
    """Usable images with their split, near-duplicates and rejected inputs."""

    images: pa.Table
    summary: SplitSummary
    duplicates: NearDuplicates
    rejected: pa.Table


def _stage(job: _Job) -> None:
    """Decode, draw and encode each image once; one task for each group of the manifest."""
    sizes = [len(job.manifest.rows_of_group(part)) for part in range(job.manifest.groups)]
    done = staged_parts(job.staged)
    if done:
        print(f"going on: {sum(sizes[part] for part in done)} of {sum(sizes)} images are done already")
    if todo := remove_done(job.listed.manifest.units, done):
        left = sum(size for part, size in enumerate(sizes) if part not in done)
        allowed = job.config.max_unreadable - job.listed.manifest.unreadable
        outcomes = stage_groups(job.manifest, todo, job.staged, job.config, allowed)
        _follow(((each.done, each.rejected) for each in outcomes), "drawing", left)


def _split(job: _Job) -> _Split:
    """Find near-duplicates among the staged images, resolve label conflicts, and split the rest.

    Raises:
        WorkError: there are label conflicts and ``duplicates.conflicts`` is stop, or a class has too few usable images.
    """
    usable, broken = read_staged(job.staged, job.manifest)
    pairs = search_in_tasks(usable["phash"], job.config.duplicates.distance)
    usable = usable.drop_columns("phash")
    duplicates = describe_pairs(usable, pairs)
    usable = usable.drop_columns("pixels")
    with write_atomically(job.out / "duplicates.parquet") as temporary:
        pq.write_table(duplicates.table(), temporary)
    parts = usable["part"].to_numpy()
    draw_duplicates(duplicates, lambda row: staged_path(job.staged, parts[row]), job.out / "duplicates.png")
    try:
        survivors, contradicted = resolve_conflicts(usable, duplicates, job.config.duplicates.conflicts)
    except WorkError:
        forget_request(job.out)  # the user may correct labels before the next run, by moving files
        raise
    del usable
    rejected = write_rejected(job.out, broken, contradicted)
    try:
        images, summary = split_dataset(survivors, job.listed.classes.classes, job.config, duplicates)
    except RequestError as error:
        forget_request(job.out)  # the user may correct files before the next run
        kinds = ", ".join(f"{count} {reason}" for reason, count in count_reasons(rejected).items())
        raise WorkError(
            f"{error}; rejected were: {kinds or 'none'}; see {job.out / 'rejected.parquet'}, and duplicates.parquet "
            "beside it for what makes the groups"
        ) from error
    parts = images["part"].to_numpy()
    draw_classes(images, lambda row: staged_path(job.staged, parts[row]), job.out / "contact_sheet.png")
    return _Split(images, summary, duplicates, rejected)


def _assemble(job: _Job, split: _Split) -> PreparedDataset:
    """Write the shards and then the card (commit), and delete the staged files."""
    shards = write_index(job.staged, split.images, job.config.shard_rows)
    calls = ((rows, shard, job.staged, job.out) for shard, rows in enumerate(shards))
    _follow(run_in_parallel(assemble_shard, calls), "writing", split.images.num_rows)
    counted = split.images.group_by(["label", "split"]).aggregate([([], "count_all")]).to_pylist()
    number = {(row["label"], row["split"]): row["count_all"] for row in counted}
    digests, encodings = read_stored_form(job.staged, split.images)
    contents = DatasetContents(
        fingerprint=fingerprint(split.images.append_column("sha256", digests)),
        counts={label: {side: number.get((label, side), 0) for side in SPLITS} for label in job.listed.classes.classes},
        rejected=split.rejected.num_rows,
        parts=len(shards),
        unreadable=pc.sum(pc.equal(split.rejected["error_kind"], ErrorKind.UNREADABLE)).as_py() or 0,
        encodings=encodings,
        masks={label: asdict(counts) for label, counts in count_masks(job.staged, job.manifest.groups).items()},
    )
    write_card(job.out, DatasetCard.create(job.request, contents, split.summary, split.duplicates))
    (job.out / WORK).remove()
    dataset = open_dataset(job.out)
    print_summary(dataset, split.rejected, split.duplicates)
    return dataset


def _follow(outcomes: Iterable[tuple[int, int]], description: str, total: int) -> None:
    """Show the progress of tasks by their outcomes, the numbers of images done and rejected.

    Raises:
        WorkError: a task failed.
    """
    rejected, finished, throughput = 0, 0, ThroughputMeter()
    try:
        saved = saved_if_interrupted(lambda: f"{description}: {finished} of {total} images are saved")
        with progress_meter(description, total) as meter, saved:
            for done, refused in outcomes:
                rejected, finished = rejected + refused, finished + done
                fields = {"rejected": str(rejected)} if rejected else {}
                if rate := throughput.update(done):
                    fields["once started"] = f"{rate:.1f} images/s"
                meter.advance(done, **fields)
    except WorkError as error:
        raise WorkError(f"{error}; the same command goes on where it stopped") from error
