"""Evaluation of a model on one split of a prepared dataset: metrics, figures, report.

overlay evaluate run dataset --out evaluation
overlay evaluate run/Resnet_fineTuning.pth dataset --out evaluation --split val
"""

from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cluster import session
from overlay.config import ClusterOptions, Evaluate, InferenceOptions, table_column
from overlay.dataset.card import CARD_FILE
from overlay.dataset.folds import select_fold
from overlay.dataset.prepared import open_dataset
from overlay.dataset.rows import read_rows
from overlay.engines.base import Floats, Pixels
from overlay.engines.factory import prepare_engine
from overlay.errors import faults_end_the_work
from overlay.evaluation.audit_rows import AS_STORED, viewed_images
from overlay.evaluation.audit_views import AuditPlan, AuditView
from overlay.evaluation.dataset_images import read_calibration_pixels
from overlay.evaluation.mask_audit import AuditAnswers, plan_audit
from overlay.evaluation.output_files import Extras, ScoredSplit, check_evaluation_folder, write_evaluation
from overlay.evaluation.report_data import Inference
from overlay.evaluation.subgroups import SubgroupColumn
from overlay.evaluation.subject import EvaluationSubject, check_split, count_seen
from overlay.models.model_file import load_model_file
from overlay.prediction.schema import evaluation_schema
from overlay.preparation.metadata_table import MetadataColumn
from overlay.sources.split_reading import stored_images
from overlay.storage.folder_lock import FolderLock
from overlay.storage.path import StoragePath
from pipelines.inference.small_jobs import choose_local_device, has_device, is_small_job
from pipelines.inference.split_scores import score_in_process, score_on_ray
from pipelines.runtime.command_log import log_into
from pipelines.runtime.placement import choose_device
from pipelines.runtime.room import await_actors

DECODED_ROWS = 64
"""images that are decoded at a time, at most; a GPU's batches are joined from several"""


@faults_end_the_work()
def run(config: Evaluate) -> None:
    """Evaluate into ``config.out``.

    Raises:
        RequestError: the request was wrong; nothing was written.
        WorkError: the evaluation failed.
    """
    with FolderLock(StoragePath.of(config.out), "evaluate") as lock:
        _evaluate(config, lock)


def _evaluate(config: Evaluate, lock: FolderLock) -> None:
    model, dataset = load_model_file(config.model, config.legacy), open_dataset(config.dataset)
    if model.card.fold is not None and model.card.dataset == dataset.card.fingerprint:
        print(f"the model is that of fold {model.card.fold}: evaluating on the {config.split} split of that fold")
        dataset = select_fold(dataset, model.card.fold)
    subject = EvaluationSubject(model, dataset, config.split)
    out = StoragePath.of(config.out)
    lock.take()
    check_evaluation_folder(out, config.out)
    seen = count_seen(subject)
    check_split(subject, seen, allow_seen=config.allow_seen)
    subgroups = read_subgroups(config.subgroups, subject)
    audit = plan_audit(subject.dataset, subject.split)
    options = InferenceOptions(
        connect_for(subject, audit, config.device, config.cluster),
        config.precision,
        config.batch_size,
        kind=config.engine,
        flips=config.flips,
        cluster=config.cluster,
    )
    int8 = config.precision == "int8"
    calibration = read_calibration_pixels(subject.dataset, subject.model.card) if int8 else None
    scored = score_split(subject, options, calibration, audit)
    result = write_evaluation(subject, scored, out, Extras(seen, subgroups))
    log_into(out)
    print("\n".join(result.lines()))
    print(f"report: {out / 'report.html'}")


def read_subgroups(option: str | None, subject: EvaluationSubject) -> tuple[SubgroupColumn, ...]:
    """Read the columns of ``subgroups`` for the images of the split, in the order of their ids.

    Raises:
        RequestError: the table can't be read, lacks a column, or names none of the images.
    """
    if option is None or (found := table_column(option)) is None:
        return ()
    file, names = found
    ids = read_rows(subject.dataset, subject.split, [])["id"].to_pylist()
    tables = {name: MetadataColumn("subgroups", f"{file}:{name}") for name in names.split(",")}
    return tuple(SubgroupColumn(name, table.lookup(ids)) for name, table in tables.items())


def connect_for(
    subject: EvaluationSubject, audit: AuditPlan | None, device: str, options: ClusterOptions
) -> Literal["cpu", "cuda"]:
    """Join a Ray session where an evaluation needs one; return the device that computes.

    Raises:
        RequestError: ``device`` is cuda and there is no GPU, the cluster can't be joined, or a node lacks the dataset.
        WorkError: the cluster had no room for cluster.wait seconds.
    """
    if is_small_job(count_views(subject, audit)):
        return choose_local_device(device)
    session.connect()
    await_actors(device, None, options)
    from pipelines.runtime.shared_disk import check_shared_disk  # Ray takes seconds to import

    check_shared_disk(read=[("dataset", subject.dataset.place / CARD_FILE)], written=[])
    return choose_device(device, session.resources())


def count_views(subject: EvaluationSubject, audit: AuditPlan | None) -> int:
    """Count the images of a split, in all views of the audit."""
    images = sum(counts[subject.split] for counts in subject.dataset.card.counts.values())
    return images + (len(audit.ids) * len(audit.views) if audit else 0)


def score_split(
    subject: EvaluationSubject,
    options: InferenceOptions,
    calibration: Pixels | None = None,
    audit: AuditPlan | None = None,
) -> ScoredSplit:
    """Classify the images of a split: the columns of a prediction, true_label, group, fold and split, by id.

    ``audit``: images that are shown in several views as well.

    Raises:
        RequestError: the engine is not installed, or doesn't fit the device or the precision.
        WorkError: an image of the dataset can't be decoded, or a worker failed again and again.
    """
    plan = prepare_engine(subject.model, options.kind, options.device, options.precision, calibration)
    look, size = subject.model.card.input, min(options.rows, DECODED_ROWS)
    if audit is None:
        reading = stored_images(subject.dataset, subject.split, look, size)
    else:
        reading = viewed_images(subject.dataset, subject.split, look, size, audit)
    here = is_small_job(count_views(subject, audit)) and has_device(options.device)
    score = score_in_process if here else score_on_ray
    blocks = list(score(plan, reading, options))
    ids = np.concatenate([block["id"] for block in blocks])
    probabilities = np.concatenate([block["probabilities"] for block in blocks])
    inference = Inference(str(plan), str(blocks[0]["precision"][0]), options.flips)
    if audit is None:
        return ScoredSplit(_predictions(subject, probabilities[np.argsort(ids)]), inference)
    views = np.concatenate([block["view"] for block in blocks])
    stored = np.flatnonzero(views == AS_STORED)
    answers = {view: _answers_of(view, ids, views, probabilities) for view in audit.views}
    ordered = stored[np.argsort(ids[stored])]
    return ScoredSplit(_predictions(subject, probabilities[ordered]), inference, AuditAnswers(audit, answers))


def _answers_of(
    view: AuditView, ids: NDArray[np.str_], views: NDArray[np.str_], probabilities: Floats
) -> dict[str, int]:
    """Answer of the model to one view of each image, by id."""
    chosen = views == view
    return dict(zip(ids[chosen].tolist(), probabilities[chosen].argmax(axis=1).tolist(), strict=True))


def _predictions(subject: EvaluationSubject, probabilities: Floats) -> pa.Table:
    """Return the predictions of (n, C) probabilities, which are in the order of the ids."""
    known = read_rows(subject.dataset, subject.split, ["label", "group", "fold"])
    classes, n = subject.model.card.classes, len(known)
    columns = {
        "id": known["id"],
        "uri": [subject.dataset.path] * n,
        "member": pa.nulls(n),
        "status": ["ok"] * n,
        "error": pa.nulls(n),
        "error_kind": pa.nulls(n),
        "label": np.array(classes)[probabilities.argmax(axis=1)],
        "confidence": probabilities.max(axis=1),
        "model": [subject.model.sha256] * n,
        "true_label": known["label"],
        "group": known["group"],
        "fold": known["fold"],
        "split": [subject.split] * n,
    }
    columns |= {f"prob_{name}": probabilities[:, index] for index, name in enumerate(classes)}
    return pa.Table.from_pydict(columns, schema=evaluation_schema(classes))
