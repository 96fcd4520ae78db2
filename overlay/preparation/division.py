"""Split of a dataset into train, val and test or into folds, and the leakage of a split that was given.

A split is given by the folders of the sources, or by ``split.column``.
"""

from collections.abc import Sequence
from dataclasses import fields

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from overlay.config import SPLITS, Prepare, Split
from overlay.dataset.card import SplitSummary
from overlay.dataset.folds import side_of_fold
from overlay.duplicates.near_duplicates import Leakage, NearDuplicates, find_leakage
from overlay.errors import RequestError
from overlay.preparation.splits import (
    assign_folds,
    assign_sides,
    draw_validation,
    encode_texts,
    group_sizes,
    share_deviation,
)
from overlay.sources.class_layout import FOLD_PREFIX, ClassLayout


def check_given_split(split: Split, layout: ClassLayout) -> bool:
    """Whether the sources are divided into splits or folds already, by their folders.

    ``split.group_by`` may stand beside them, since groups show leakage, and ``split.seed`` where val is drawn.

    Raises:
        RequestError: an option asks for another split.
    """
    if not layout.splits:
        return False
    seed = split.seed if "val" not in layout.splits.values() and not layout.folds else Split.seed
    kept = Split(group_by=split.group_by, ungrouped=split.ungrouped, seed=seed)
    if differing := [each.name for each in fields(split) if getattr(split, each.name) != getattr(kept, each.name)]:
        value = getattr(split, differing[0])
        raise RequestError(
            f"split.{differing[0]} is {value}, and the sources are divided already, into "
            f"{', '.join(sorted(layout.splits))}; leave it away, or give each of these folders as a source of its own "
            "to make another split"
        )
    return True


def split_dataset(
    images: pa.Table, classes: Sequence[str], config: Prepare, duplicates: NearDuplicates
) -> tuple[pa.Table, SplitSummary]:
    """Return the rows with ``split``, ``fold``, and ``side`` (see `overlay.dataset.card.fingerprint`), and a summary.

    ``images`` is the table of `resolve_conflicts`. A split in ``given_split`` is kept even where it puts a group on two
    sides; this leakage is counted. Where it has no val, that is drawn from train.

    Raises:
        RequestError: a class has no usable image left, or too few groups for the split.
    """
    labels, groups, given = images["label"], images["group"], images["given_split"].combine_chunks()
    if gone := sorted(set(classes) - set(pc.unique(labels).to_pylist())):
        raise RequestError(f"class {gone[0]} has no usable image left")
    fold: pa.Array = pa.nulls(len(images), pa.int32())
    folds = config.split.folds
    origin = ""
    if config.split.only:
        split = pa.array([config.split.only]).take(pa.array(np.zeros(len(images), np.int64)))
    elif given.null_count < len(given):
        origin = "split.column" if config.split.column else "the sources' folders"
        split, fold, folds = given, *_given_folds(given)
        if not folds and "val" not in (kinds := pc.unique(given).to_pylist()) and "train" in kinds:
            split, origin = _with_validation(images, config.split), f"{origin}, with val drawn from train"
    elif folds:
        fold = pa.array(assign_folds(labels, groups, folds, config.split.seed), pa.int32())
    else:
        split = pa.array(SPLITS).take(pa.array(assign_sides(labels, groups, config.split)))
    if folds:
        split = pa.array([side_of_fold(number, 0, folds) for number in range(folds)]).take(fold)
    side = split if fold.null_count else pc.binary_join_element_wise("fold", fold.cast(pa.string()), " ")
    images = images.append_column("split", split).append_column("fold", fold).append_column("side", side)
    leaks = Leakage(0, 0, 0)  # a group split has no leakage
    if origin:
        leaks = find_leakage(*_in_place(images, len(duplicates.ids)), duplicates)
    sizes = np.bincount(encode_texts(groups).codes)
    deviation = share_deviation(labels, images["side"])
    by_side = group_sizes(groups, images["side"])
    return images, SplitSummary(len(sizes), int(sizes.max()), deviation, by_side, leaks, origin)


def _given_folds(given: pa.Array) -> tuple[pa.Array, int]:
    """Return the fold of each image and their number, from texts such as "fold 3"; nulls and 0 where there are none."""
    names = pc.unique(given).to_pylist()
    if not all(name.startswith(FOLD_PREFIX) for name in names):
        return pa.nulls(len(given), pa.int32()), 0
    return pc.replace_substring(given, FOLD_PREFIX, "").cast(pa.int32()), len(names)


def _with_validation(images: pa.Table, split: Split) -> pa.Array:
    """Return the given split with val drawn from train by groups, with the share of val in train and val."""
    given = images["given_split"].combine_chunks()
    of_train = pc.equal(given, "train")
    train = images.filter(of_train)
    drawn = np.zeros(len(given), bool)
    drawn[of_train.to_numpy(zero_copy_only=False)] = draw_validation(train["label"], train["group"], split)
    return pc.if_else(pa.array(drawn), "val", given)


def _in_place(images: pa.Table, number: int) -> tuple[pa.Array, pa.Array]:
    """Return side and group of each of ``number`` images; null for those that were dropped from the table."""
    row = np.full(number, -1)
    row[images["place"].to_numpy()] = np.arange(len(images))
    rows = pa.array(row, mask=row < 0)
    return images["side"].combine_chunks().take(rows), images["group"].combine_chunks().take(rows)
