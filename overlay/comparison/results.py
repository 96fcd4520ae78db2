"""Results of the trainings or models of a comparison: results.parquet, predictions.parquet, label_doubts.parquet."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import yaml

from overlay.comparison.answers import Answers, ComparedImages, align_answers, metric_influence
from overlay.config import COMPARISON_METRICS, SPLITS, EarlyStopping
from overlay.dataset.prepared import PreparedDataset
from overlay.evaluation.label_doubts import label_doubts
from overlay.models.model_file import ModelFile, build_network, load_model_file
from overlay.storage.parquet import open_parquet
from overlay.storage.path import StoragePath
from overlay.training import history
from overlay.training.run_folder import RunFolder

RESULTS_SCHEMA = pa.schema(
    [
        ("candidate", pa.string()),
        ("seed", pa.int64()),
        ("fold", pa.int32()),
        ("status", pa.string()),
        ("error", pa.string()),
        ("run", pa.string()),
        ("model", pa.string()),
        ("n_train", pa.int64()),
        ("n_val", pa.int64()),
        ("n_test", pa.int64()),
        ("epoch", pa.int64()),
        ("seconds", pa.float64()),
        ("images_per_second", pa.float64()),
        ("parameters", pa.int64()),
        ("temperature", pa.float64()),
        ("val_macro_f1", pa.float64()),
        *((name, pa.float64()) for name in COMPARISON_METRICS),
    ]
)
"""columns of results.parquet, a row a training or a finished model: seed and fold are null for a finished model; run is
its folder or file; model is the sha256 of its model file; epoch is the one whose weights were kept; the metrics are
those of its test images, null where they are not defined or the training failed"""


@dataclass(frozen=True)
class ComparedModel:
    """One model of a comparison: of a training, or a finished one."""

    candidate: str
    seed: int | None
    fold: int | None
    path: StoragePath
    """run folder or model file"""
    dataset: PreparedDataset
    """divided as for this model"""
    predictions: StoragePath
    """predictions.parquet of its evaluation"""
    error: str | None = None
    """why its training failed"""
    cautions: tuple[str, ...] = ()
    """what makes its numbers doubtful, in sentences"""


def result_row(model: ComparedModel, classes: tuple[str, ...], positive: str | None) -> dict[str, object]:
    """Return the row of results.parquet of a model."""
    counts = {f"n_{split}": sum(each[split] for each in model.dataset.card.counts.values()) for split in SPLITS}
    row: dict[str, object] = {
        "candidate": model.candidate,
        "seed": model.seed,
        "fold": model.fold,
        "status": "failed" if model.error else "done",
        "error": model.error,
        "run": str(model.path),
        **counts,
    }
    if model.error:
        return row
    file = load_model_file(model.path)
    row |= {"model": file.sha256, "parameters": _count_parameters(file), "temperature": file.card.temperature}
    row |= _training_facts(model)
    table = read_predictions(model, classes)
    single = {id: id for id in table["id"].to_pylist()}  # values alone do not depend on groups
    images, answers = align_answers({model.candidate: table}, single, classes, positive)
    for metric in COMPARISON_METRICS:
        found = metric_influence(metric, images, answers[model.candidate])
        row[metric] = None if found is None else found.value
    return row


def read_predictions(model: ComparedModel, classes: tuple[str, ...]) -> pa.Table:
    """Read a model's test predictions: id, seed, fold, true_label, label, and prob_CLASS for each class."""
    names = ["id", "true_label", "label", *(f"prob_{name}" for name in classes)]
    with open_parquet(model.predictions) as file:
        table = file.read(columns=names)
    seeds = pa.array([model.seed or 0] * len(table), pa.int64())
    folds = pa.array([model.fold] * len(table), pa.int32())
    return table.append_column("seed", seeds).append_column("fold", folds)


def predictions_table(tables: Mapping[str, pa.Table], groups: Mapping[str, str], classes: tuple[str, ...]) -> pa.Table:
    """Return the content of predictions.parquet: id, group, fold, true_label, candidate, seed, label, prob_CLASS."""
    parts = []
    for candidate, table in tables.items():
        group = pa.array([groups[id] for id in table["id"].to_pylist()], pa.string())
        name = pa.array([candidate] * len(table), pa.string())
        parts.append(table.append_column("group", group).append_column("candidate", name))
    order = ["id", "group", "fold", "true_label", "candidate", "seed", "label", *(f"prob_{name}" for name in classes)]
    return pa.concat_tables(parts).select(order)


def doubts_table(images: ComparedImages, answers: Mapping[str, Answers], conflicts: Mapping[str, str]) -> pa.Table:
    """Return the content of label_doubts.parquet: images whose label the candidates' mean probabilities contradict.

    Args:
        images: the rows.
        answers: candidate -> its answers, from models that did not see the image.
        conflicts: id -> label of a near-duplicate of the image that carries another label than it.
    """
    ids, first, inverse = np.unique(images.ids.astype(str), return_index=True, return_inverse=True)
    mean = np.zeros((len(ids), len(images.classes)))
    np.add.at(mean, inverse, np.mean([each.probabilities for each in answers.values()], axis=0))
    mean /= np.bincount(inverse)[:, None]
    labels = images.labels[first]
    doubts = label_doubts(labels, mean)
    names, found = np.array(images.classes), doubts.images
    return pa.table(
        {
            "id": pa.array(ids[found].tolist(), pa.string()),
            "label": pa.array(names[labels[found]].tolist(), pa.string()),
            "suggested": pa.array(names[doubts.suggested].tolist(), pa.string()),
            "prob_label": mean[found, labels[found]],
            "prob_suggested": mean[found, doubts.suggested],
            "margin": doubts.margin,
            "near_duplicate_label": pa.array([conflicts.get(id) for id in ids[found].tolist()], pa.string()),
        }
    )


def read_conflicts(dataset: PreparedDataset) -> dict[str, str]:
    """Return id -> label of a near-duplicate with another label, out of duplicates.parquet."""
    table = open_parquet(dataset.place / "duplicates.parquet").read(columns=["id_a", "id_b", "label_a", "label_b"])
    found: dict[str, str] = {}
    for row in table.filter(pc.not_equal(table["label_a"], table["label_b"])).to_pylist():
        found.setdefault(row["id_a"], row["label_b"])
        found.setdefault(row["id_b"], row["label_a"])
    return found


def results_table(rows: Sequence[Mapping[str, object]]) -> pa.Table:
    """Return the content of results.parquet from the rows of `result_row`."""
    return pa.Table.from_pylist([dict(row) for row in rows], schema=RESULTS_SCHEMA)


def _count_parameters(file: ModelFile) -> int:
    return sum(each.numel() for each in build_network(file).parameters())


def _training_facts(model: ComparedModel) -> dict[str, object]:
    """Return the columns that only a model with a run folder has."""
    folder = RunFolder(model.path)
    epochs = history.read_history(folder.history_file)
    if not epochs:
        return {}
    stored = yaml.safe_load(folder.config_file.read_bytes())
    best = epochs[history.best_epoch(epochs, EarlyStopping(**stored["early_stopping"]))]
    return {
        "epoch": best.epoch,
        "seconds": sum(epoch.seconds for epoch in epochs),
        "images_per_second": float(np.mean([epoch.images_per_second for epoch in epochs])),
        "val_macro_f1": best.val_macro_f1,
    }
