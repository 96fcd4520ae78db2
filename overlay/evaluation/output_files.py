"""Output files of an evaluation: predictions, metrics, figures and report, each written atomically."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from overlay.errors import RequestError
from overlay.evaluation import figures, metrics
from overlay.evaluation.report import ReportData, render_report
from overlay.evaluation.report_data import EvaluationSubject, create_protocol, measure_mask_only, read_mistakes
from overlay.storage.atomic import write_atomically

EVALUATION_FILES = (
    "predictions.parquet",
    "classification_report.csv",
    "confusion_matrix.png",
    "report.html",
    "metrics.json",
)
"""in the order in which they are written; a folder with ``metrics.json`` is complete"""


@dataclass(frozen=True)
class EvaluationResult:
    """Metrics of an evaluation, and the classes that they were computed from."""

    metrics: metrics.Evaluation
    labels: list[int]
    """(n,) indices of the true classes"""
    predicted: list[int]
    """(n,) indices of the predicted classes"""


def check_evaluation_folder(out: Path, given: str) -> None:
    """Check that a folder can take an evaluation: it is new, empty, or holds another evaluation, perhaps a partial one.

    Raises:
        RequestError: it holds a file that no evaluation writes; ``given`` is how the user named it.
    """
    strange = sorted(file.name for file in out.iterdir() if not _is_own(file)) if out.exists() else []
    if strange:
        raise RequestError(f"--out {given} holds something else ({strange[0]}); choose an empty folder")


def write_evaluation(
    subject: EvaluationSubject, predictions: pa.Table, out: Path, curves: bytes | None = None
) -> EvaluationResult:
    """Compute the metrics of a scored split, and write all files of its evaluation into the folder ``out``.

    Args:
        subject: the model, the dataset and the split.
        predictions: one row an image with its ``id``, ``true_label``, ``label``, ``confidence`` and, for each class,
            ``prob_CLASS``; written as ``predictions.parquet``.
        out: the folder, which is made where it is not there.
        curves: picture of the model's training, as PNG.

    Raises:
        WorkError: a probability is not a finite number; nothing was written.
    """
    classes = subject.dataset.card.classes
    labels = np.array([classes.index(label) for label in predictions["true_label"].to_pylist()])
    columns = [predictions[f"prob_{name}"].to_numpy() for name in classes]
    probabilities = np.stack(columns, axis=1).astype(np.float64)
    evaluation = metrics.compute_evaluation(labels, probabilities, classes)
    report = ReportData(
        title=f"{subject.model.card.arch} on {subject.dataset.place.name}, {subject.split}",
        evaluation=evaluation,
        protocol=create_protocol(subject),
        confusion_png=figures.draw_confusion_matrix(evaluation),
        roc_png=figures.draw_roc(labels, probabilities, evaluation),
        curves_png=curves,
        mask_only=measure_mask_only(subject.dataset, subject.split),
        mistakes=read_mistakes(subject.dataset, predictions, metrics.worst_mistakes(labels, probabilities)),
    )
    _write(out, predictions, report)
    return EvaluationResult(evaluation, labels.tolist(), probabilities.argmax(axis=1).tolist())


def _write(out: Path, predictions: pa.Table, report: ReportData) -> None:
    texts = {
        "classification_report.csv": metrics.classification_report_csv(report.evaluation).encode(),
        "confusion_matrix.png": report.confusion_png,
        "report.html": render_report(report).encode(),
        "metrics.json": (json.dumps(report.evaluation.to_json(), indent=2) + "\n").encode(),
    }
    out.mkdir(parents=True, exist_ok=True)
    for file in out.iterdir():  # metrics.json of an earlier evaluation, and what a killed one left
        if file.name == "metrics.json" or (file.name not in EVALUATION_FILES and _is_own(file)):
            file.unlink()
    with write_atomically(out / "predictions.parquet") as temporary:
        pq.write_table(predictions, temporary)
    for name, content in texts.items():
        with write_atomically(out / name) as temporary:
            temporary.write_bytes(content)


def _is_own(file: Path) -> bool:
    """Whether a file is one of an evaluation, or the temporary file of one that was killed while it wrote."""
    unfinished = file.suffix == ".tmp" and any(file.name.startswith(f".{name}.") for name in EVALUATION_FILES)
    return file.name in EVALUATION_FILES or unfinished
