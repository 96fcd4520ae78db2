"""Output files of an evaluation: predictions, metrics, figures and report, each written atomically."""

import json
from dataclasses import dataclass
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq

from overlay.errors import RequestError
from overlay.evaluation import figures, metrics
from overlay.evaluation.curves import compute_curves
from overlay.evaluation.estimates import (
    Evaluation,
    classification_report_csv,
    compute_evaluation,
    estimate_text,
    summary_line,
)
from overlay.evaluation.gallery import read_gallery
from overlay.evaluation.mask_audit import AuditAnswers, measure_audit
from overlay.evaluation.metrics_file import metrics_json
from overlay.evaluation.outcome import (
    answers_at_threshold,
    labels_of_predictions,
    measure_calibration,
    measure_operating_point,
    measure_uncertain,
)
from overlay.evaluation.report import render_report
from overlay.evaluation.report_data import Inference, ReportData, SeenImages
from overlay.evaluation.report_facts import (
    compare_with_constant,
    compare_with_masks,
    create_protocol,
    find_doubted_labels,
    measure_all_subgroups,
    read_training,
)
from overlay.evaluation.subgroups import SubgroupColumn
from overlay.evaluation.subject import EvaluationSubject, cautions
from overlay.storage.atomic import write_atomically
from overlay.storage.filenames import LOG_FILE, is_stray
from overlay.storage.path import StoragePath

EVALUATION_FILES = (
    "predictions.parquet",
    "classification_report.csv",
    "confusion_matrix.png",
    "report.html",
    "metrics.json",
)
"""in the order in which they are written; a folder with ``metrics.json`` is complete"""


@dataclass(frozen=True, eq=False)
class ScoredSplit:
    """Predictions of a split, and how they were computed."""

    predictions: pa.Table
    """one row an image, sorted by ``id``: the columns of a prediction, and true_label, group, fold, split"""
    inference: Inference
    audit: AuditAnswers | None = None
    """answers to other views of the images; None where they have no masks"""


@dataclass(frozen=True)
class Extras:
    """What the caller of an evaluation knows already."""

    seen: SeenImages | None
    """images that the model has seen; None where its file has no hashes"""
    subgroups: tuple[SubgroupColumn, ...] = ()
    """the user's columns, in the order of the ids"""


@dataclass(frozen=True)
class EvaluationResult:
    """Data of an evaluation's report, and the classes that its metrics were computed from."""

    report: ReportData
    labels: list[int]
    """(n,) indices of the true classes"""
    predicted: list[int]
    """(n,) indices of the predicted classes"""

    @property
    def metrics(self) -> Evaluation:
        """All metrics."""
        return self.report.evaluation

    def lines(self) -> list[str]:
        """Return the summary for the screen: cautions, metrics, operating point."""
        lines = [f"CAUTION: {text}" for text in self.report.cautions]
        if missing := self.report.protocol.missing_classes:
            lines.append(f"the dataset has no {', '.join(missing)}, which the model may answer all the same")
        lines.append(f"{self.report.protocol.split}: {summary_line(self.metrics)}")
        if (point := self.report.operating) is not None:
            named = {"sensitivity": point.sensitivity, "specificity": point.specificity}
            said = [f"{name} {estimate_text(found)}" for name, found in named.items() if found is not None]
            lines.append(f"{point.positive} at the threshold {point.threshold:.3f}: {', '.join(said)}")
        return lines


def check_evaluation_folder(out: StoragePath, given: str) -> None:
    """Check that a folder can take an evaluation: it is new, empty, or holds another evaluation, perhaps a partial one.

    Raises:
        RequestError: it is a file, or holds a file that no evaluation writes; ``given`` is how the user named it.
    """
    if out.is_file():
        raise RequestError(f"--out {given} is a file; name a folder")
    if strange := [name for name in out.children() if not (_is_own(name) or is_stray(name) or name == LOG_FILE)]:
        raise RequestError(f"--out {given} holds something else ({strange[0]}); choose an empty folder")


def write_evaluation(
    subject: EvaluationSubject, scored: ScoredSplit, out: StoragePath, extras: Extras
) -> EvaluationResult:
    """Compute the metrics of a scored split, and write all files of its evaluation into the folder ``out``.

    Args:
        subject: the model, the dataset and the split.
        scored: its predictions, written as ``predictions.parquet``, and how they were computed.
        out: the folder, which is made where it is not there.
        extras: what is known already.

    Raises:
        WorkError: a row of probabilities is no distribution; nothing was written.
    """
    card, dataset = subject.model.card, subject.dataset
    probable = labels_of_predictions(scored.predictions, card.classes)
    answers = answers_at_threshold(card, probable)
    ids = scored.predictions["id"].to_pylist()
    worst = metrics.worst_mistakes(probable.labels, probable.probabilities)
    train_counts = [dataset.card.counts.get(name, {}).get("train", 0) for name in card.classes]
    file = StoragePath.of(subject.model.path)
    run = file.parent
    report = ReportData(
        title=run.name if (run / "config.yaml").is_file() else PurePosixPath(file.name).stem,
        evaluation=compute_evaluation(
            probable.labels, probable.probabilities, card.classes, probable.groups, dataset.card.classes
        ),
        protocol=create_protocol(subject, scored.inference),
        constant=compare_with_constant(answers, card.classes),
        curves=compute_curves(probable.labels, probable.probabilities, card.classes),
        cautions=cautions(subject, extras.seen),
        seen=extras.seen,
        operating=measure_operating_point(card, probable),
        uncertain=measure_uncertain(card, probable),
        # The mean of two softmaxes has no temperature that could be taken back.
        calibration=None if scored.inference.flips else measure_calibration(card, probable, train_counts),
        mask_only=compare_with_masks(subject, answers),
        mask_only_lesions=compare_with_masks(subject, answers, lesions_only=True),
        audit=None if scored.audit is None else measure_audit(answers, ids, scored.audit),
        mistakes=read_gallery(subject.model, dataset, scored.predictions, worst),
        doubts=() if subject.split == "train" else find_doubted_labels(ids, probable, card.classes),
        subgroups=measure_all_subgroups(subject, answers, extras.subgroups),
        training=read_training(run),
    )
    _write(out, scored.predictions, report)
    return EvaluationResult(report, answers.labels.tolist(), answers.predicted.tolist())


def _write(out: StoragePath, predictions: pa.Table, report: ReportData) -> None:
    texts = {
        "classification_report.csv": classification_report_csv(report.evaluation).encode(),
        "confusion_matrix.png": figures.draw_confusion_matrix(report.evaluation),
        "report.html": render_report(report).encode(),
        "metrics.json": (json.dumps(metrics_json(report), indent=2) + "\n").encode(),
    }
    out.make_folder()
    for name in out.children():  # metrics.json of an earlier evaluation, and what a killed one left
        if name == "metrics.json" or (name not in EVALUATION_FILES and _is_own(name)):
            (out / name).remove()
    with write_atomically(out / "predictions.parquet") as temporary:
        pq.write_table(predictions, temporary)
    for name, content in texts.items():
        with write_atomically(out / name) as temporary:
            temporary.write_bytes(content)


def _is_own(name: str) -> bool:
    """Whether a file is one of an evaluation, or the temporary file of one that was killed while it wrote."""
    unfinished = name.endswith(".tmp") and any(name.startswith(f".{file}.") for file in EVALUATION_FILES)
    return name in EVALUATION_FILES or unfinished
