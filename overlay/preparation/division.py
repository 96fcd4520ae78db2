"""Split of a dataset: its images into train, val and test or into folds, and what a split of the user's own leaks."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from overlay.config import SPLITS, Prepare
from overlay.dataset.card import SplitSummary
from overlay.dataset.folds import side_of_fold
from overlay.duplicates.near_duplicates import NearDuplicates, find_leakage
from overlay.errors import RequestError
from overlay.preparation.splits import assign_folds, assign_sides, share_deviation


def split_dataset(
    images: pa.Table, classes: Sequence[str], config: Prepare, duplicates: NearDuplicates
) -> tuple[pa.Table, SplitSummary]:
    """Return the rows with ``split``, ``fold``, and ``side``, as `overlay.dataset.card.fingerprint` takes it.

    The table is one that `resolve_conflicts` made. A split of the user's own, in ``given_split``, is kept even where it
    tears groups apart, and that is counted.

    Raises:
        RequestError: a class is too small by now, or gone.
    """
    labels, groups = images["label"], images["group"]
    if gone := sorted(set(classes) - set(pc.unique(labels).to_pylist())):
        raise RequestError(f"class {gone[0]} has no usable image left")
    fold: pa.Array = pa.nulls(len(images), pa.int32())
    if config.split.column:
        split = images["given_split"].combine_chunks()
    elif folds := config.split.folds:
        dealt = assign_folds(labels, groups, folds, config.split.seed)
        split = pa.array([side_of_fold(number, 0, folds) for number in range(folds)]).take(pa.array(dealt))
        fold = pa.array(dealt, pa.int32())
    else:
        split = pa.array(SPLITS).take(pa.array(assign_sides(labels, groups, config.split)))
    side = split if fold.null_count else pc.binary_join_element_wise("fold", fold.cast(pa.string()), " ")
    images = images.append_column("split", split).append_column("fold", fold).append_column("side", side)
    leaks = find_leakage(*_in_place(images, len(duplicates.ids)), duplicates)
    sizes = pc.value_counts(groups).field("counts")
    deviation = share_deviation(labels, images["side"])
    return images, SplitSummary(len(sizes), pc.max(sizes).as_py(), deviation, leaks)


def _in_place(images: pa.Table, number: int) -> tuple[pa.Array, pa.Array]:
    """Return split and group of each of ``number`` images; null for those that are not in the table any more."""
    row = np.full(number, -1)
    row[images["place"].to_numpy()] = np.arange(len(images))
    rows = pa.array(row, mask=row < 0)
    return images["split"].combine_chunks().take(rows), images["group"].combine_chunks().take(rows)
