"""How the images that survived are divided: contradictions settled, near-duplicates grouped, each group on one side."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from overlay.config import Prepare
from overlay.duplicates import Duplicates, Leaks, join, leaks
from overlay.errors import RequestError, WorkError
from overlay.splits import assign, assign_folds, deviation, side_of_fold

Row = dict[str, Any]


@dataclass(frozen=True)
class Division:
    """What was divided, and how well."""

    groups: int
    largest_group: int
    deviation: dict[str, float]
    """split, or fold -> largest difference, in points, of a class's share there from its share of the whole"""
    leaks: Leaks
    """what a split of the user's own tears apart; nothing where the split is ours"""


def settle(
    rows: Sequence[Row], duplicates: Duplicates, conflicts: Literal["keep", "drop", "stop"]
) -> tuple[list[Row], list[Row]]:
    """Give each row its ``group``, and return the rows that stay and those that are dropped, with the ``reason``.

    Raises:
        WorkError: there are conflicts, and they are to stop the work.
    """
    contradicted = duplicates.contradicted() if conflicts != "keep" else {}
    if contradicted and conflicts == "stop":
        number = int(duplicates.conflicts.sum())
        shown = "; ".join(duplicates.describe(int(pair)) for pair in duplicates.conflicts_first()[: min(3, number)])
        raise WorkError(
            f"{number} pairs of near-duplicates have different labels: {shown}{'; ...' if number > 3 else ''}; mend "
            "the labels, or choose duplicates.conflicts keep or drop"
        )
    groups = join([row["group"] for row in rows], duplicates.pairs)
    grouped = [row | {"group": group} for row, group in zip(rows, groups, strict=True)]
    stay = [row for row in grouped if row["id"] not in contradicted]
    return stay, [row | {"reason": contradicted[row["id"]]} for row in grouped if row["id"] in contradicted]


def divide(
    rows: Sequence[Row], classes: Sequence[str], config: Prepare, own: Mapping[str, str], duplicates: Duplicates
) -> Division:
    """Give each row, which has ``id``, ``label`` and ``group``, its ``split`` and ``fold``.

    ``own`` is the user's split by id, or empty. It is kept even where it tears groups apart, and that is counted.

    Raises:
        RequestError: a class is too small by now, or gone.
    """
    labels, groups = [row["label"] for row in rows], [row["group"] for row in rows]
    if gone := sorted(set(classes) - set(labels)):
        raise RequestError(f"class {gone[0]} has no usable image left")
    dealt: list[int | None] = [None] * len(rows)
    if own:
        sides = [own[row["id"]] for row in rows]
    elif folds := config.split.folds:
        dealt = [*assign_folds(labels, groups, folds, config.split.seed)]
        sides = [side_of_fold(fold, 0, folds) for fold in dealt if fold is not None]
    else:
        sides = assign(labels, groups, config.split)
    for row, side, fold in zip(rows, sides, dealt, strict=True):
        row["split"], row["fold"] = side, fold
    names = sides if dealt[0] is None else [f"fold {fold}" for fold in dealt]
    torn = leaks({row["id"]: row["split"] for row in rows}, {row["id"]: row["group"] for row in rows}, duplicates)
    sizes = Counter(groups)
    return Division(len(sizes), max(sizes.values()), deviation(labels, names), torn)
