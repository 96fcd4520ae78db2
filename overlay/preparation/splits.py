"""Group split into train, val and test, or into folds: seeded, stratified by class, every group on one side.

scikit-learn's StratifiedGroupKFold makes folds of equal size and may leave a class out of one; shares such as 0.7,
0.15, 0.15 and a class with three images both occur here. So the groups are dealt out greedily against exact targets,
the largest first, which is the rule of StratifiedGroupKFold and of Sechidis et al., "On the stratification of
multi-label data", ECML PKDD 2011.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from overlay.config import SPLITS, Split
from overlay.errors import RequestError

Texts: TypeAlias = Sequence[str] | pa.ChunkedArray
"""texts, (n,)"""


def assign(labels: Texts, groups: Texts, split: Split) -> list[str]:
    """Return the split of each image; depends on labels, groups and seed, never on their order.

    No group lies on two sides, and every class is in every split. Where each group is a single image, the number of a
    class's images in a split is within one of its share, save where a class is so small that its share of a split is
    less than one image and the others' can't pay for it. Larger groups bring it as near as they allow.

    Raises:
        RequestError: a class has fewer than three groups, or groups of several classes leave one out of a split.
    """
    return [SPLITS[side] for side in assign_sides(labels, groups, split).tolist()]


def assign_sides(labels: Texts, groups: Texts, split: Split) -> NDArray[np.int64]:
    """Return the split of each image, by the rules of `assign`, as positions in ``SPLITS``, (n,).

    Raises:
        RequestError: as `assign`.
    """
    return _deal(labels, groups, [getattr(split, name) for name in SPLITS], split.seed)


def assign_folds(labels: Texts, groups: Texts, folds: int, seed: int) -> NDArray[np.int64]:
    """Return the fold of each image, (n,), counted from 0, by the rules of `assign` for equal shares.

    Raises:
        RequestError: a class has fewer groups than there are folds, or groups of several classes leave one out of a
            fold.
    """
    return _deal(labels, groups, [1 / folds] * folds, seed, folds)


def share_deviation(labels: Texts, sides: Texts) -> dict[str, float]:
    """Return for each side the largest difference, in points, of a class's share there from its share of the whole."""
    kinds, label_of = _encoded(labels)
    names, side_of = _encoded(sides)
    both = np.zeros((len(names), len(kinds)))
    np.add.at(both, (side_of, label_of), 1)
    apart = np.abs(100 * both / both.sum(axis=1, keepdims=True) - 100 * both.sum(axis=0) / both.sum())
    return dict(zip(names.to_pylist(), apart.max(axis=1).tolist(), strict=True))


def _deal(labels: Texts, groups: Texts, shares: list[float], seed: int, folds: int | None = None) -> NDArray[np.int64]:
    kinds, label_of = _encoded(labels)
    names, group_of = _encoded(groups)
    # Each class in each group is a member; those of a group stand together.
    members, counts = np.unique(group_of * len(kinds) + label_of, return_counts=True)
    starts = np.searchsorted(members, np.arange(len(names) + 1) * len(kinds))
    sizes: list[int] = np.bincount(label_of).tolist()
    waiting: list[int] = np.bincount(members % len(kinds)).tolist()  # groups that are not dealt yet, of each class
    classes = kinds.to_pylist()
    _check_sizes(dict(zip(classes, sizes, strict=True)), dict(zip(classes, waiting, strict=True)), folds)
    deficits = [_quota(size, shares) for size in sizes]
    missing = [set(range(len(shares))) for _ in sizes]
    sides = np.zeros(len(names), np.int64)
    draws = np.fromiter((_draw(seed, name.as_py()) for name in names), np.uint64, len(names))
    for group in np.lexsort((draws, -np.bincount(group_of))):
        own = slice(starts[group], starts[group + 1])
        within: list[tuple[int, int]] = list(
            zip((members[own] % len(kinds)).tolist(), counts[own].tolist(), strict=True)
        )
        # A class with as many groups left as sides that lack it can't wait any longer.
        urgent = [label for label, _ in within if waiting[label] <= len(missing[label])]
        side = max(
            range(len(shares)),
            key=lambda side: (
                sum(side in missing[label] for label in urgent),
                # What the squared error of the classes' shares falls by, without the part that all sides have.
                sum(count * deficits[label][side] / sizes[label] ** 2 for label, count in within),
                -side,
            ),
        )
        sides[group] = side
        for label, count in within:
            deficits[label][side] -= count
            missing[label].discard(side)
            waiting[label] -= 1
    for label, lacking in zip(classes, missing, strict=True):
        if lacking:
            raise RequestError(
                f"class {label} can't be in every split, since its groups are tied to those of other classes; "
                "use another split.seed, or a split.group_by that makes smaller groups"
            )
    return sides[group_of]


class ClassSizes:
    """Images and groups of each class, counted image by image."""

    def __init__(self) -> None:
        self._images = Counter[str]()
        self._single = Counter[str]()
        self._named: dict[str, set[str]] = {}

    def add(self, label: str, group: str | None) -> None:
        """Count an image; one without a group is a group of its own."""
        self._images[label] += 1
        if group is None:
            self._single[label] += 1
        else:
            self._named.setdefault(label, set()).add(group)

    def check(self, folds: int | None = None) -> None:
        """Refuse a class that can't be in every split, or in every fold.

        Raises:
            RequestError: a class has fewer groups than three, or than folds; names the class and both counts.
        """
        groups = {label: self._single[label] + len(self._named.get(label, ())) for label in self._images}
        _check_sizes(self._images, groups, folds)


def _check_sizes(images: Mapping[str, int], groups: Mapping[str, int], folds: int | None) -> None:
    where, least = (f"in each of {folds} folds", folds) if folds else ("in train, val and test", len(SPLITS))
    for label in sorted(images):
        if groups[label] < least:
            grouped = f" in {groups[label]} groups" if groups[label] < images[label] else ""
            unit = "groups" if grouped else "images"
            raise RequestError(
                f"class {label} has {images[label]} images{grouped}, too few to be {where}; it needs at least {least} "
                f"{unit}"
            )


def _encoded(values: Texts) -> tuple[pa.Array, NDArray[np.int64]]:
    """Return the distinct texts, sorted, and the position of each value among them."""
    array = values if isinstance(values, pa.ChunkedArray) else pa.chunked_array([pa.array(values, pa.string())])
    names = pc.unique(array)
    names = names.take(pc.sort_indices(names))
    return names, pc.index_in(array, names).to_numpy().astype(np.int64)


def _quota(size: int, shares: list[float]) -> list[int]:
    """Divide ``size`` images, at least as many as there are shares, by largest remainder, and at least one each."""
    exact = [size * share for share in shares]
    counts = [max(1, int(part)) for part in exact]
    while sum(counts) < size:
        counts[max(range(len(shares)), key=lambda i: (exact[i] - counts[i], -i))] += 1
    while sum(counts) > size:
        counts[max((i for i in range(len(shares)) if counts[i] > 1), key=lambda i: (counts[i] - exact[i], -i))] -= 1
    return counts


def _draw(seed: int, group: str) -> int:
    """Return a group's place in the random order, 64 bits that don't depend on what other groups there are."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{group}".encode()).digest()[:8], "big")
