"""Batch prediction (inference): one Parquet row for each input, with a label or an error.

    overlay predict run/Resnet_fineTuning.pth images/ --out predictions
    overlay predict run 'scans/**/*.png' images.zip table.parquet --out predictions --top_k 2 --entropy
    overlay predict run-0,run-1,run-2,run-3,run-4 images/ --out predictions
    find scans -name '*.png' | overlay predict run - s3://bucket/shards --out s3://bucket/predictions

The inputs are listed first, as a manifest. They are read, decoded and drawn in groups, scored in batches, and committed
in parts, each by a rename; _SUCCESS.json comes last: with it, every input has exactly one row. The same command resumes
an interrupted run. Up to 1,000 images are classified in this process, more of them on Ray, by the same functions.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from cluster import session
from overlay import tracking
from overlay.config import Predict
from overlay.engines.base import Pixels, ScoredBatch
from overlay.errors import WorkError, faults_end_the_work, saved_if_interrupted
from overlay.images.decoder_pool import decoder_pool
from overlay.images.decoder_process import ProcessLimits
from overlay.models.ensemble import Ensemble, load_ensemble
from overlay.models.model_file import ModelCard, ModelFile
from overlay.prediction.cost import OccupiedHardware
from overlay.prediction.output_folder import PredictionFolder, PredictionRequest
from overlay.prediction.row_writer import PredictionWriter
from overlay.prediction.schema import PredictionColumns
from overlay.prediction.seen_inputs import count_seen_inputs
from overlay.prediction.summary import StageTimes, summarise_predictions
from overlay.sources.data_address import allowed_roots
from overlay.sources.decode import DecodeLimits, GroupDecoder, StoredLook, sample_pixels
from overlay.sources.input_bytes import prediction_bytes
from overlay.sources.manifest import Manifest, ManifestListing, write_manifest
from overlay.sources.mask_pairing import repeated_text
from overlay.sources.read_plan import ReadUnit
from overlay.sources.resolve import resolve_inputs
from overlay.storage.command_folder import command_folder
from overlay.storage.disk_space import check_free_space
from overlay.storage.filenames import describe_passed_over
from overlay.storage.folder_lock import FolderLock
from overlay.storage.path import StoragePath
from pipelines.inference.small_jobs import is_small_job
from pipelines.runtime.command_log import log_into
from pipelines.runtime.progress import progress_meter


class PredictionBackend(Protocol):
    """Backend of a prediction: this process, or Ray."""

    @property
    def computed(self) -> str:
        """Engine and device, such as "torch on cpu"."""

    @property
    def processes(self) -> Mapping[str, float]:
        """Stage -> processes or threads that work at it, where these are more than one."""

    @property
    def hardware(self) -> OccupiedHardware | None:
        """Hardware that the prediction occupies; None where it changed."""

    def classify(self, decoder: GroupDecoder, remaining: Callable[[], Sequence[ReadUnit]]) -> Iterator[ScoredBatch]:
        """Yield the scored rows of the units that remain, in batches, in any order.

        ``remaining``: returns the units without the rows that were yielded and taken.
        """


@dataclass(frozen=True)
class PredictionOutcome:
    """Outcome of a complete prediction."""

    unreadable: int
    """number of inputs that could not be read, whose rows say why"""


@faults_end_the_work()
def run(config: Predict) -> PredictionOutcome:
    """Predict all inputs into the folder ``config.out``.

    Raises:
        RequestError: an option, the model or an input is wrong; nothing was written.
        WorkError: a task or the storage failed; the same command resumes.
    """
    with FolderLock(StoragePath.of(config.out), "predict") as lock:
        return _predict(config, lock)


def _predict(config: Predict, lock: FolderLock) -> PredictionOutcome:
    tracked = tracking.resolve_mode(config.tracking)
    loaded = load_ensemble(config.model, config.legacy)
    folder, stages = PredictionFolder(StoragePath.of(config.out)), StageTimes()
    with command_folder() as temporary:
        listing = _list_inputs(config, loaded, temporary, stages)
        request = PredictionRequest.create(config, loaded.sha256, listing)
        lock.take()
        state = folder.check(request, listing.manifest, overwrite=config.overwrite, retry_errors=config.retry_errors)
        if state == "complete" and not config.retry_errors:
            print(f"{folder.path} holds these predictions already; nothing to do")
            return PredictionOutcome(folder.unreadable())
        limits = DecodeLimits(
            config.max_pixels or loaded.card.max_pixels,
            config.limits.member_bytes,
            config.images.bits or loaded.card.bits,
            ProcessLimits(config.limits.decode_bytes, config.limits.decode_seconds),
        )
        if state == "new":
            needed = prediction_bytes(listing.manifest, 1 + len(loaded.card.classes))
            check_free_space(folder.path, needed, "the prediction")
        decoder_pool(limits.process)  # its processes import their decoders while this one prepares the model
        calibration, look = None, StoredLook.of(loaded.card)
        if config.precision == "int8":
            calibration = sample_pixels(GroupDecoder(listing.manifest, look, limits), listing.units)
        backend = _choose_backend(config, loaded.members, calibration, small=_is_small(config, listing))
        stages.processes |= backend.processes
        request = replace(request, computed=backend.computed)
        manifest = folder.begin(request, listing, anew=state == "new")
        log_into(folder.path)
    overlay_missing = _report_listing(listing, loaded.card)

    layout = PredictionColumns(
        loaded.card.classes,
        loaded.sha256,
        config.top_k,
        config.entropy,
        loaded.card.uncertain_below,
        loaded.card.flag,
    )
    results = PredictionWriter(folder, manifest, layout, retry_errors=config.retry_errors)
    if results.done:
        print(f"going on: {results.done} of {manifest.rows} images are done already")
    if results.done < manifest.rows:
        decoder = GroupDecoder(manifest, look, limits)
        with saved_if_interrupted(lambda: f"{results.save()} of {manifest.rows} rows are saved"):
            blocks = backend.classify(decoder, lambda: results.remaining_units(listing.units))
            _write_predictions(blocks, results, manifest, stages)
        stages.hardware = backend.hardware
    if results.done < manifest.rows:
        raise WorkError(f"{manifest.rows - results.done} images have no row; the same command goes on with them")
    summary = summarise_predictions(folder, manifest, loaded.card.classes, overlay_missing)
    if summary.confusion.any() and loaded.hashes is not None:
        summary = replace(summary, seen=count_seen_inputs(manifest, listing.units, loaded.hashes, limits))
    values = summary.values(stages)
    folder.commit(request, values)
    print("\n".join(summary.lines(stages)))
    print(f"predictions: {folder.path}")
    if tracked != "disabled":
        own = Path("wandb") if folder.path.in_bucket else Path(folder.path.text, "wandb")
        tracking.log_prediction(config, tracked, own, {name: value for name, (value, _) in values.items()})
    return PredictionOutcome(summary.unreadable)


def _list_inputs(config: Predict, loaded: Ensemble, folder: Path, stages: StageTimes) -> ManifestListing:
    """List the inputs into a manifest in ``folder``, and show progress."""
    began = time.monotonic()
    roots = allowed_roots(config.allow_root)
    portions = resolve_inputs(config.inputs, loaded.card.classes, config.limits, config.masks, roots)
    with progress_meter("listing", None) as meter:
        listing = write_manifest(portions, folder, config.part_rows, meter.advance_to)
    stages.seconds["listing"] = time.monotonic() - began
    return listing


def _report_listing(listing: ManifestListing, card: ModelCard) -> int:
    """Print the number of inputs; return how many images lack the overlay that the model was trained on."""
    others = describe_passed_over(listing.passed_over)
    skipped = f"; left out, since Overlay wrote them: {', '.join(sorted(listing.skipped))}" if listing.skipped else ""
    print(f"{listing.manifest.rows} images to classify{others}{skipped}")
    if text := repeated_text(listing.repeats, listing.manifest.rows):
        print(
            f"WARNING: {listing.repeats[text]} of them have the name of another with {text!r} added: if these are "
            f"masks, say so by --masks.{'prefix' if text[-1] in '-_. ' else 'suffix'}"
        )
    missing = listing.without_overlay if card.overlay is not None and card.overlay.style != "none" else 0
    if missing:
        print(
            f"WARNING: the model was trained on images with their masks drawn on them ({missing} of these "
            f"{listing.manifest.rows} have no mask): what it says of bare images was never measured"
        )
    return missing


def _write_predictions(
    blocks: Iterator[ScoredBatch], results: PredictionWriter, manifest: Manifest, stages: StageTimes
) -> None:
    began = time.monotonic()
    with progress_meter("classifying", manifest.rows, done=results.done) as meter:
        for block in blocks:
            before = time.monotonic()
            results.add(block)
            stages.add(block, writing=time.monotonic() - before)
            meter.advance(len(block["row"]), errors=str(results.errors.total()))
    stages.elapsed = time.monotonic() - began


def _is_small(config: Predict, listing: ManifestListing) -> bool:
    return is_small_job(listing.manifest.rows) and config.actors is None


def _choose_backend(
    config: Predict, models: Sequence[ModelFile], calibration: Pixels | None, *, small: bool
) -> PredictionBackend:
    if small:
        from pipelines.inference.local_backend import LocalBackend

        return LocalBackend(config, models, calibration)
    session.connect_while_importing("pipelines.inference.ray_backend")
    from pipelines.inference.ray_backend import RayBackend

    return RayBackend(config, models, calibration)
