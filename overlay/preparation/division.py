"""How the images that survived are divided: contradictions settled, near-duplicates grouped, each group on one side."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from overlay.config import Prepare
from overlay.dataset.folds import side_of_fold
from overlay.duplicates.near_duplicates import Leakage, NearDuplicates, find_leakage
from overlay.errors import RequestError
from overlay.preparation.splits import assign, assign_folds, share_deviation


@dataclass(frozen=True)
class DatasetSplit:
    """What was divided, and how well."""

    groups: int
    largest_group: int
    deviation: dict[str, float]
    """split, or fold -> largest difference, in points, of a class's share there from its share of the whole"""
    leaks: Leakage
    """what a split of the user's own tears apart; nothing where the split is ours"""


def split_dataset(
    images: pa.Table, classes: Sequence[str], config: Prepare, duplicates: NearDuplicates
) -> tuple[pa.Table, DatasetSplit]:
    """Return the rows with ``split``, ``fold``, and ``side``, as `overlay.dataset.card.fingerprint` takes it.

    The table is one that `settle` made. A split of the user's own, in ``given_split``, is kept even where it tears
    groups apart, and that is counted.

    Raises:
        RequestError: a class is too small by now, or gone.
    """
    labels, groups = images["label"].to_pylist(), images["group"].to_pylist()
    if gone := sorted(set(classes) - set(labels)):
        raise RequestError(f"class {gone[0]} has no usable image left")
    dealt: list[int] | None = None
    if config.split.column:
        splits = images["given_split"].to_pylist()
    elif folds := config.split.folds:
        dealt = assign_folds(labels, groups, folds, config.split.seed)
        splits = [side_of_fold(fold, 0, folds) for fold in dealt]
    else:
        splits = assign(labels, groups, config.split)
    sides = splits if dealt is None else [f"fold {fold}" for fold in dealt]
    columns = {
        "split": pa.array(splits, pa.string()),
        "fold": pa.nulls(len(splits), pa.int32()) if dealt is None else pa.array(dealt, pa.int32()),
        "side": pa.array(sides, pa.string()),
    }
    for name, column in columns.items():
        images = images.append_column(name, column)
    split_of, group_of = (np.full(len(duplicates.ids), None, object) for _ in range(2))
    places = images["place"].to_numpy()
    split_of[places], group_of[places] = splits, groups
    torn = find_leakage(split_of, group_of, duplicates)
    sizes = Counter(groups)
    return images, DatasetSplit(len(sizes), max(sizes.values()), share_deviation(labels, sides), torn)
