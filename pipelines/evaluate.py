"""Measure a model on one split of a prepared dataset: metrics, figures, report.

overlay evaluate run dataset --out evaluation
overlay evaluate run/Resnet_fineTuning.pth dataset --out evaluation --split val
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset
import pyarrow.parquet as pq
from numpy.typing import NDArray
from ray.exceptions import RayError

from cluster import session
from overlay.config import Evaluate
from overlay.dataset.prepared import PreparedDataset, open_dataset
from overlay.engines.base import Pixels
from overlay.errors import RequestError, WorkError, faults_end_the_work
from overlay.evaluation import figures, metrics
from overlay.evaluation.report import ReportData, write_report
from overlay.evaluation.report_data import _mask_only, _mistakes, _protocol
from overlay.images.codec import decode_image
from overlay.images.resize import decode_target, resize_image
from overlay.models import model_file
from overlay.prediction.schema import prediction_schema
from overlay.storage.atomic import write_atomically
from pipelines.inference.model_actors import InferenceOptions, score_rows_with
from pipelines.runtime.dataset_rows import decoded_rows
from pipelines.runtime.placement import choose_device

EVALUATION_FILES = (
    "metrics.json",
    "classification_report.csv",
    "confusion_matrix.png",
    "predictions.parquet",
    "report.html",
)
CALIBRATION_IMAGES = 128
"""most training images that int8 is calibrated with"""


@faults_end_the_work()
def run(config: Evaluate) -> None:
    """Evaluate into ``config.out``.

    Raises:
        RequestError: the request was wrong; nothing was written.
        WorkError: the work failed.
    """
    loaded = model_file.load_model_file(config.model, config.legacy)
    dataset = open_dataset(config.dataset)
    out = Path(config.out).expanduser().absolute()
    if out.exists() and (strange := sorted({entry.name for entry in out.iterdir()} - set(EVALUATION_FILES))):
        raise RequestError(f"--out {config.out} holds something else ({strange[0]}); choose an empty folder")
    if tuple(dataset.card.classes) != loaded.card.classes:
        raise RequestError(
            f"the model knows the classes {', '.join(loaded.card.classes)}, and {config.dataset} has "
            f"{', '.join(dataset.card.classes)}; evaluate it on a dataset with the same classes"
        )
    session.connect()
    engine = InferenceOptions(
        choose_device(config.device, session.resources()),
        config.precision,
        config.batch_size,
        kind=config.engine,
        flips=config.flips,
        calibration=_calibration(dataset, loaded.card) if config.precision == "int8" else None,
    )
    evaluation = write_evaluation(loaded, dataset, config.split, out, engine).metrics
    print(f"{config.split}: {summary_line(evaluation)}")
    print(f"report: {out / 'report.html'}")


def summary_line(evaluation: metrics.Evaluation) -> str:
    """Return the numbers that stand for an evaluation, in one line."""
    low, high = evaluation.accuracy_interval
    return (
        f"accuracy {evaluation.accuracy:.3f} (95 % interval {low:.3f} to {high:.3f}), macro-F1 "
        f"{evaluation.macro.f1:.3f} on {evaluation.images} images"
    )


def write_evaluation(
    loaded: model_file.ModelFile,
    dataset: PreparedDataset,
    split: str,
    out: Path,
    engine: InferenceOptions,
    curves: bytes | None = None,
) -> "EvaluationResult":
    """Score a split and write the files of an evaluation; ``curves`` is the picture of the model's training."""
    table = _scored(loaded, dataset, split, engine)
    labels = np.array([dataset.card.classes.index(label) for label in table["true_label"].to_pylist()])
    probabilities = np.stack([table[f"prob_{name}"].to_numpy() for name in dataset.card.classes], axis=1)
    evaluation = metrics.compute_evaluation(labels, probabilities.astype(np.float64), dataset.card.classes)
    confusion_png = figures.draw_confusion_matrix(evaluation)

    out.mkdir(parents=True, exist_ok=True)
    with write_atomically(out / "predictions.parquet") as temporary:
        pq.write_table(table, temporary)
    (out / "metrics.json").write_text(json.dumps(evaluation.to_json(), indent=2) + "\n")
    metrics.write_classification_report(evaluation, out / "classification_report.csv")
    (out / "confusion_matrix.png").write_bytes(confusion_png)
    report = ReportData(
        title=f"{loaded.card.arch} on {dataset.place.name}, {split}",
        evaluation=evaluation,
        protocol=_protocol(loaded, dataset, split),
        confusion_png=confusion_png,
        roc_png=figures.draw_roc(labels, probabilities.astype(np.float64), evaluation),
        curves_png=curves,
        mask_only=_mask_only(dataset, split),
        mistakes=_mistakes(dataset, table, metrics.worst_mistakes(labels, probabilities.astype(np.float64))),
    )
    write_report(out / "report.html", report)
    return EvaluationResult(evaluation, labels.tolist(), probabilities.argmax(axis=1).tolist())


@dataclass(frozen=True)
class EvaluationResult:
    """What came out of an evaluation."""

    metrics: metrics.Evaluation
    labels: list[int]
    """(n,) positions of the true classes"""
    predicted: list[int]
    """(n,) positions of the predicted ones"""


def _scored(loaded: model_file.ModelFile, dataset: PreparedDataset, split: str, engine: InferenceOptions) -> pa.Table:
    """Return predictions.parquet: the columns of a prediction and ``true_label``, in the order of the ids."""
    rows = decoded_rows(dataset, split, loaded.card.input, engine.batch_size)
    scored: dict[str, tuple[str, NDArray[np.float32]]] = {}
    try:
        for block in score_rows_with(rows, loaded, engine, session.resources()).iter_batches(batch_size=None):
            for name, label, probabilities in zip(block["id"], block["label"], block["probabilities"], strict=True):
                scored[str(name)] = (str(label), probabilities)
    except RayError as error:
        raise WorkError(f"evaluation stopped: {str(error).strip().splitlines()[-1]}") from error
    classes = loaded.card.classes
    predicted = []
    for name, (label, probabilities) in sorted(scored.items()):
        best = int(probabilities.argmax())
        row: dict[str, Any] = {
            "id": name,
            "uri": dataset.path,
            "status": "ok",
            "model": loaded.sha256,
            "true_label": label,
        }
        row |= {"label": classes[best], "confidence": float(probabilities[best])}
        predicted.append(row | {f"prob_{n}": float(p) for n, p in zip(classes, probabilities, strict=True)})
    return pa.Table.from_pylist(
        predicted, schema=prediction_schema(classes).append(pa.field("true_label", pa.string()))
    )


def _calibration(dataset: PreparedDataset, card: model_file.ModelCard) -> Pixels:
    """Return training images from all over the dataset, as the model sees them."""
    files = pyarrow.dataset.dataset(dataset.data_files(), filesystem=dataset.filesystem)
    names = files.to_table(columns=["id"], filter=pc.field("split") == "train")["id"].to_pylist()
    chosen = pa.array(names[:: -(-len(names) // CALIBRATION_IMAGES)], pa.string())
    images = files.to_table(columns=["image"], filter=pc.field("id").isin(chosen))["image"].to_pylist()
    target = decode_target(card.size, card.resize)
    return np.stack(
        [resize_image(decode_image(image["bytes"], target=target), card.size, card.resize) for image in images]
    )
