"""Subgroups of evaluated images: number, accuracy and sensitivity of each, with intervals and without tests.

Differences between small subgroups found after the fact are no findings, so no p-values are given; a subgroup of fewer
than `FEW_IMAGES` images is marked. Reporting by subgroup: TRIPOD+AI (Collins et al. 2024, BMJ 385:e078378), item 23a.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from overlay.evaluation.answers import EvaluatedAnswers
from overlay.evaluation.influence import Influence, accuracy_influence, sensitivity_influence
from overlay.evaluation.intervals import Estimate, estimate_metric

FEW_IMAGES = 20
"""fewer images than these tell next to nothing"""
MOST_VALUES = 20
"""values of a column that are shown; numbers with more are divided into thirds, of texts the rest is put together"""


@dataclass(frozen=True)
class SubgroupColumn:
    """Column of n values that divides the images."""

    name: str
    """in words"""
    values: Sequence[str | None]
    """(n,) None where an image has no value"""
    order: Sequence[str] = ()
    """values in the order of their rows; where it is empty, the most frequent first"""


@dataclass(frozen=True)
class Subgroup:
    """Results on the images with one value of a column."""

    name: str
    images: int
    accuracy: Estimate
    sensitivity: Estimate | None
    """of the positive class; None without images of it, and where there is no positive class"""

    @property
    def few(self) -> bool:
        """Whether it has fewer than `FEW_IMAGES` images."""
        return self.images < FEW_IMAGES


@dataclass(frozen=True)
class SubgroupTable:
    """Subgroups by one column."""

    column: str
    """in words"""
    subgroups: tuple[Subgroup, ...]


def measure_subgroups(column: SubgroupColumn, answers: EvaluatedAnswers) -> SubgroupTable | None:
    """Measure each subgroup of one column; None where all images have the same value."""
    column = _divided(column)
    values = np.array(["not given" if value is None else value for value in column.values])
    names, counts = np.unique(values, return_counts=True)
    if len(names) < 2:
        return None
    place = [column.order.index(name) if name in column.order else len(column.order) for name in names.tolist()]
    ordered = names[np.lexsort((names, -counts, np.array(place)))]
    shown = ordered if len(ordered) <= MOST_VALUES else ordered[: MOST_VALUES - 1]
    subgroups = [_measure(str(name), values == name, answers) for name in shown]
    if rest := len(ordered) - len(shown):
        subgroups.append(_measure(f"{rest} others", ~np.isin(values, shown), answers))
    return SubgroupTable(column.name, tuple(subgroups))


def own_columns(rows: pa.Table) -> list[SubgroupColumn]:
    """Return the columns that a prepared dataset has itself: source, number of lesions, thirds of the mask's area.

    ``rows``: (n,) of the dataset, with ``source``, ``mask_lesions`` and ``mask_area_share``.
    """
    lesions = {None: "none", 1: "one", 2: "two"}
    numbers = [lesions.get(count, "three or more") for count in rows["mask_lesions"].to_pylist()]
    areas = np.array(rows["mask_area_share"].to_pylist(), np.float64)
    thirds, names = number_thirds(areas, lambda share: f"{100 * share:.1f}\N{NO-BREAK SPACE}%", missing="no lesion")
    return [
        SubgroupColumn("source", rows["source"].to_pylist()),
        SubgroupColumn("number of lesions", numbers, ("none", "one", "two", "three or more")),
        SubgroupColumn("mask's share of the image", thirds, ("no lesion", *names)),
    ]


def number_thirds(
    numbers: NDArray[np.float64], text: Callable[[float], str], missing: str = "not given"
) -> tuple[list[str], tuple[str, ...]]:
    """Divide (n,) numbers into thirds of equal size; return the name of each one's third, and the names in order.

    NaN is ``missing``; with less than three different numbers there is one third.
    """
    known = numbers[~np.isnan(numbers)]
    low, high = np.quantile(known, [1 / 3, 2 / 3]).tolist() if len(known) else (0.0, 0.0)
    names = (f"up to {text(low)}", f"{text(low)} to {text(high)}", f"above {text(high)}")
    if len(np.unique(known)) < 3:
        names = ("given",) * 3
    place = np.searchsorted([low, high], numbers, side="left").tolist()
    absent = np.isnan(numbers).tolist()
    return [missing if gone else names[third] for gone, third in zip(absent, place, strict=True)], names


def _divided(column: SubgroupColumn) -> SubgroupColumn:
    """Thirds of a column of many different numbers; any other column as it is."""
    if len(set(column.values)) <= MOST_VALUES:
        return column
    try:
        numbers = np.array([np.nan if value is None else float(value) for value in column.values])
    except ValueError:
        return column
    thirds, names = number_thirds(numbers, lambda number: f"{number:.3g}")
    return SubgroupColumn(column.name, thirds, names)


def _measure(name: str, chosen: NDArray[np.bool_], answers: EvaluatedAnswers) -> Subgroup:
    # The intervals take group numbers without gaps.
    groups = np.unique(answers.groups[chosen], return_inverse=True)[1].astype(np.int64)

    def estimate(metric: Influence | None) -> Estimate | None:
        return None if metric is None else estimate_metric(metric, groups)

    accuracy = accuracy_influence(answers.labels[chosen], answers.predicted[chosen])
    sensitivity = None
    if answers.positive is not None and answers.flagged is not None:
        sensitivity = sensitivity_influence(answers.positive[chosen], answers.flagged[chosen])
    return Subgroup(name, int(chosen.sum()), estimate_metric(accuracy, groups), estimate(sensitivity))
