"""Stratified group split into train, val and test, or into folds: seeded, every group on one side.

scikit-learn's StratifiedGroupKFold makes folds of equal size and may leave a class out of a fold; here shares such as
0.7, 0.15, 0.15 and a class of three images both occur. So the groups are assigned against exact targets, in the best of
several random orders: see `overlay.preparation.group_deal`.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from overlay.config import SPLITS, Split
from overlay.dataset.card import SideGroups
from overlay.errors import RequestError
from overlay.preparation.group_deal import GroupSizes

_ALL_SPLITS = "in train, val and test"
_BATCH = 10_000  # texts that are Python objects at one time

Texts: TypeAlias = Sequence[str] | pa.ChunkedArray
"""texts, (n,)"""


def assign(labels: Texts, groups: Texts, split: Split) -> list[str]:
    """Return the split of each image, (n,): train, val or test; for use from Python, by the rules of `assign_sides`.

    Raises:
        RequestError: a class has fewer than three groups, or groups of several classes leave one out of a split.
    """
    return [SPLITS[side] for side in assign_sides(labels, groups, split)]


def assign_sides(labels: Texts, groups: Texts, split: Split) -> NDArray[np.int32]:
    """Return the split of each image as positions in ``SPLITS``, int32 (n,).

    It depends on labels, groups and seed, never on their order. No group is on two sides, and every class is in every
    split. Where each group is a single image, the number of a class's images in a split is within one of its share,
    except where a class is so small that its share of a split is less than one image. Larger groups come as near as
    their sizes allow. The sizes of the groups of a split are those of a random draw.

    Raises:
        RequestError: a class has fewer than three groups, or groups of several classes leave one out of a split.
    """
    return _assign_groups(labels, groups, [getattr(split, name) for name in SPLITS], split.seed, _ALL_SPLITS)


def assign_folds(labels: Texts, groups: Texts, folds: int, seed: int) -> NDArray[np.int32]:
    """Return the fold of each image, int32 (n,), counted from 0, by the rules of `assign_sides` for equal shares.

    Raises:
        RequestError: a class has fewer groups than there are folds, or groups of several classes leave one out of a
            fold.
    """
    return _assign_groups(labels, groups, [1 / folds] * folds, seed, _in_folds(folds))


def draw_validation(labels: Texts, groups: Texts, split: Split) -> NDArray[np.bool_]:
    """Return which images of a training split are drawn for validation, bool (n,), by the rules of `assign_sides`.

    The share is that of val in train and val together.

    Raises:
        RequestError: a class has fewer than two groups, or groups of several classes leave one out of train or val.
    """
    share = split.val / (split.train + split.val)
    sides = _assign_groups(
        labels, groups, [1 - share, share], split.seed, "in train and in val, which is drawn from it"
    )
    return np.equal(sides, 1)


def share_deviation(labels: Texts, sides: Texts) -> dict[str, float]:
    """Return side -> largest deviation of a class's share from its share of the whole, in percentage points."""
    classes, places = encode_texts(labels), encode_texts(sides)
    both = np.bincount(places.codes * classes.kinds + classes.codes, minlength=places.kinds * classes.kinds)
    both = both.reshape(places.kinds, classes.kinds)
    apart = np.abs(100 * both / both.sum(axis=1, keepdims=True) - 100 * both.sum(axis=0) / both.sum())
    return dict(zip(places.names(), apart.max(axis=1).tolist(), strict=True))


def group_sizes(groups: Texts, sides: Texts) -> dict[str, SideGroups]:
    """Return side -> number of its groups and of their images."""
    names, places = encode_texts(groups), encode_texts(sides)
    pairs, images = np.unique(places.codes.astype(np.int64) * names.kinds + names.codes, return_counts=True)
    side_of_pair = pairs // names.kinds
    found = {}
    for number, side in enumerate(places.names()):
        sizes = images[side_of_pair == number]
        found[side] = SideGroups(len(sizes), round(float(sizes.mean()), 3), float(np.median(sizes)), int(sizes.max()))
    return found


def _assign_groups(labels: Texts, groups: Texts, shares: list[float], seed: int, where: str) -> NDArray[np.int32]:
    kinds, names = encode_texts(labels), encode_texts(groups)
    sizes = GroupSizes.count(kinds.codes, names.codes)
    classes = list(kinds.names())
    images: list[int] = sizes.images.tolist()
    of_class: list[int] = sizes.groups_of_class.tolist()
    _check_sizes(dict(zip(classes, images, strict=True)), dict(zip(classes, of_class, strict=True)), where, len(shares))
    quotas = np.array([_quota(size, shares) for size in images])
    draws = np.fromiter((_random_order(seed, name) for name in names.names()), np.uint64, names.kinds)
    deal = sizes.deal_best(quotas, draws)
    if deal.missing:
        raise RequestError(
            f"class {classes[min(deal.missing)]} can't be in every split, since its groups are tied to those of other "
            "classes; use another split.seed, or a split.group_by that makes smaller groups"
        )
    return deal.sides[names.codes]


class ClassSizes:
    """Counter of the images and the groups of each class."""

    def __init__(self) -> None:
        self._images = Counter[str]()
        self._single = Counter[str]()
        self._named: dict[str, set[str]] = {}

    def add(self, label: str, group: str | None) -> None:
        """Count an image; without a group it is a group of its own."""
        self._images[label] += 1
        if group is None:
            self._single[label] += 1
        else:
            self._named.setdefault(label, set()).add(group)

    def check(self, folds: int | None = None) -> None:
        """Check that every class can be in every split, or in every fold.

        Raises:
            RequestError: a class has fewer groups than three, or than ``folds``.
        """
        groups = {label: self._single[label] + len(self._named.get(label, ())) for label in self._images}
        where, least = (_in_folds(folds), folds) if folds else (_ALL_SPLITS, len(SPLITS))
        _check_sizes(self._images, groups, where, least)


def _in_folds(folds: int) -> str:
    return f"in each of {folds} folds"


def _check_sizes(images: Mapping[str, int], groups: Mapping[str, int], where: str, least: int) -> None:
    for label in sorted(images):
        if groups[label] < least:
            grouped = f" in {groups[label]} groups" if groups[label] < images[label] else ""
            unit = "groups" if grouped else "images"
            raise RequestError(
                f"class {label} has {images[label]} images{grouped}, too few to be {where}; it needs at least {least} "
                f"{unit}"
            )


@dataclass(frozen=True)
class EncodedTexts:
    """Texts encoded as integers, in 12 bytes each: hash tables of the texts would take ten times as much."""

    values: pa.ChunkedArray
    firsts: NDArray[np.int32]
    """(kinds,) row of one value of each distinct text, in sorted order"""
    codes: NDArray[np.int32]
    """(n,) index of each value among the sorted distinct texts"""

    @property
    def kinds(self) -> int:
        """Number of distinct texts."""
        return len(self.firsts)

    def names(self) -> Iterator[str]:
        """Yield the distinct texts, sorted."""
        for start in range(0, len(self.firsts), _BATCH):
            yield from self.values.take(pa.array(self.firsts[start : start + _BATCH])).to_pylist()


def encode_texts(values: Texts) -> EncodedTexts:
    """Encode texts, (n,), by their rank among the sorted distinct texts."""
    array = values if isinstance(values, pa.ChunkedArray) else pa.chunked_array([pa.array(values, pa.string())])
    order = pc.sort_indices(array).to_numpy().astype(np.int32)
    fresh = np.ones(len(order), bool)
    for start in range(1, len(order), _BATCH):
        some = array.take(pa.array(order[start - 1 : start + _BATCH]))
        fresh[start : start + _BATCH] = pc.not_equal(some[1:], some[:-1]).to_numpy()
    codes = np.empty(len(order), np.int32)
    codes[order] = np.cumsum(fresh, dtype=np.int32) - 1
    return EncodedTexts(array, order[fresh], codes)


def _quota(size: int, shares: list[float]) -> list[int]:
    """Divide ``size`` images, at least one for each share, by the largest remainder method; every share gets one."""
    exact = [size * share for share in shares]
    counts = [max(1, int(part)) for part in exact]
    while sum(counts) < size:
        counts[max(range(len(shares)), key=lambda i: (exact[i] - counts[i], -i))] += 1
    while sum(counts) > size:
        counts[max((i for i in range(len(shares)) if counts[i] > 1), key=lambda i: (counts[i] - exact[i], -i))] -= 1
    return counts


def _random_order(seed: int, group: str) -> int:
    """Return the sort key of a group in the random order: 64 bits that don't depend on the other groups."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{group}".encode()).digest()[:8], "big")
