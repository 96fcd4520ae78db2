"""Answers of all candidates to the same images: labels, groups and probabilities in one order of rows."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from overlay.config import ComparisonMetric
from overlay.evaluation import influence
from overlay.evaluation.influence import Influence

LOWER_IS_BETTER = ("log_loss",)


@dataclass(frozen=True, eq=False)
class ComparedImages:
    """Images that all candidates answered, in n rows ordered by seed and id; with two seeds each image has two rows."""

    ids: NDArray[np.object_]
    """(n,)"""
    labels: NDArray[np.int64]
    """(n,) class indices"""
    groups: NDArray[np.int64]
    """(n,) codes of the groups of dependent images, without gaps"""
    seeds: NDArray[np.int64]
    """(n,)"""
    folds: NDArray[np.int64]
    """(n,) test fold; -1 on the test split of a dataset without folds"""
    classes: tuple[str, ...]
    positive: int | None
    """class whose recall is the sensitivity"""

    @property
    def runs(self) -> NDArray[np.int64]:
        """(n,) number of the training whose test images a row belongs to: one for each pair of seed and fold."""
        return np.unique(np.stack([self.seeds, self.folds]), axis=1, return_inverse=True)[1].ravel()


@dataclass(frozen=True, eq=False)
class Answers:
    """Probabilities that one candidate gave the images, (n, C) in the order of `ComparedImages`."""

    probabilities: NDArray[np.float64]

    @property
    def predicted(self) -> NDArray[np.int64]:
        """(n,) indices of the predicted classes."""
        predicted: NDArray[np.int64] = self.probabilities.argmax(axis=1)
        return predicted


def metric_influence(
    metric: ComparisonMetric, images: ComparedImages, answers: Answers, rows: NDArray[np.intp] | None = None
) -> Influence | None:
    """Compute a metric of a candidate over some rows, or over all; None where the metric is not defined.

    Counts are pooled over folds and seeds; an AUROC is taken in each training's test images and averaged.
    """
    chosen = np.arange(len(images.labels)) if rows is None else rows
    labels, probabilities = images.labels[chosen], answers.probabilities[chosen]
    predicted = probabilities.argmax(axis=1)
    match metric:
        case "accuracy":
            return influence.accuracy_influence(labels, predicted)
        case "balanced_accuracy":
            return influence.balanced_accuracy_influence(labels, predicted)
        case "macro_f1":
            return influence.macro_f1_influence(labels, predicted)
        case "log_loss":
            return influence.log_loss_influence(labels, probabilities)
        case "sensitivity":
            if images.positive is None:
                return None
            return influence.recall_influence(labels, predicted, images.positive)
        case "auroc":
            return influence.fold_mean_influence(
                images.runs[chosen],
                lambda part: influence.one_vs_rest_auroc_influence(labels[part], probabilities[part]),
            )


def align_answers(
    tables: Mapping[str, pa.Table], groups: Mapping[str, str], classes: tuple[str, ...], positive: str | None
) -> tuple[ComparedImages, dict[str, Answers]]:
    """Put the candidates' predictions into one order.

    Args:
        tables: candidate -> table with the columns id, seed, fold, true_label and, for each class, ``prob_CLASS``; all
            with the same rows in any order. At least one.
        groups: id -> group.
        classes: C names.
        positive: class whose recall is the sensitivity.

    Raises:
        ValueError: two candidates answered other images.
    """
    ordered = {name: table.sort_by([("seed", "ascending"), ("id", "ascending")]) for name, table in tables.items()}
    first = next(iter(ordered.values()))
    keys = first.select(["seed", "id", "true_label"])
    if wrong := [name for name, table in ordered.items() if not table.select(keys.column_names).equals(keys)]:
        raise ValueError(f"{wrong[0]} answered other images than {next(iter(ordered))}")
    ids = first["id"].to_pylist()
    position = {name: index for index, name in enumerate(classes)}
    images = ComparedImages(
        ids=np.array(ids, dtype=object),
        labels=np.array([position[label] for label in first["true_label"].to_pylist()]),
        groups=np.unique([groups[each] for each in ids], return_inverse=True)[1],
        seeds=first["seed"].to_numpy().astype(np.int64),
        folds=first["fold"].fill_null(-1).to_numpy().astype(np.int64),
        classes=classes,
        positive=None if positive is None else position[positive],
    )
    return images, {name: Answers(_probabilities(table, classes)) for name, table in ordered.items()}


def _probabilities(table: pa.Table, classes: tuple[str, ...]) -> NDArray[np.float64]:
    return np.stack([table[f"prob_{name}"].to_numpy() for name in classes], axis=1).astype(np.float64)
