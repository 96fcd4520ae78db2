"""Split of a dataset into train, val and test or into folds, and the leakage of a split by ``split.column``."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from overlay.config import SPLITS, Prepare
from overlay.dataset.card import SplitSummary
from overlay.dataset.folds import side_of_fold
from overlay.duplicates.near_duplicates import Leakage, NearDuplicates, find_leakage
from overlay.errors import RequestError
from overlay.preparation.splits import assign_folds, assign_sides, encode_texts, group_sizes, share_deviation


def split_dataset(
    images: pa.Table, classes: Sequence[str], config: Prepare, duplicates: NearDuplicates
) -> tuple[pa.Table, SplitSummary]:
    """Return the rows with ``split``, ``fold``, and ``side`` (see `overlay.dataset.card.fingerprint`), and a summary.

    ``images`` is the table of `resolve_conflicts`. A split by ``split.column``, in ``given_split``, is kept even where
    it puts a group on two sides; this leakage is counted.

    Raises:
        RequestError: a class has no usable image left, or too few groups for the split.
    """
    labels, groups = images["label"], images["group"]
    if gone := sorted(set(classes) - set(pc.unique(labels).to_pylist())):
        raise RequestError(f"class {gone[0]} has no usable image left")
    fold: pa.Array = pa.nulls(len(images), pa.int32())
    if config.split.only:
        split = pa.array([config.split.only]).take(pa.array(np.zeros(len(images), np.int64)))
    elif config.split.column:
        split = images["given_split"].combine_chunks()
    elif folds := config.split.folds:
        assigned = assign_folds(labels, groups, folds, config.split.seed)
        split = pa.array([side_of_fold(number, 0, folds) for number in range(folds)]).take(pa.array(assigned))
        fold = pa.array(assigned, pa.int32())
    else:
        split = pa.array(SPLITS).take(pa.array(assign_sides(labels, groups, config.split)))
    side = split if fold.null_count else pc.binary_join_element_wise("fold", fold.cast(pa.string()), " ")
    images = images.append_column("split", split).append_column("fold", fold).append_column("side", side)
    leaks = Leakage(0, 0, 0)  # a group split has no leakage
    if config.split.column:
        leaks = find_leakage(*_in_place(images, len(duplicates.ids)), duplicates)
    sizes = np.bincount(encode_texts(groups).codes)
    deviation = share_deviation(labels, images["side"])
    by_side = group_sizes(groups, images["side"])
    return images, SplitSummary(len(sizes), int(sizes.max()), deviation, by_side, leaks)


def _in_place(images: pa.Table, number: int) -> tuple[pa.Array, pa.Array]:
    """Return split and group of each of ``number`` images; null for those that were dropped from the table."""
    row = np.full(number, -1)
    row[images["place"].to_numpy()] = np.arange(len(images))
    rows = pa.array(row, mask=row < 0)
    return images["split"].combine_chunks().take(rows), images["group"].combine_chunks().take(rows)
