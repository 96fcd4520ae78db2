"""Train, val and test: seeded, with the class shares kept, and every group on one side.

scikit-learn's StratifiedGroupKFold makes folds of equal size and may leave a class out of one; shares such as 0.7,
0.15, 0.15 and a class with three images both occur here. So the groups are dealt out greedily against exact targets,
the largest first, which is the rule of StratifiedGroupKFold and of Sechidis et al., "On the stratification of
multi-label data", ECML PKDD 2011.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from overlay.config import SPLITS, Split, table_column
from overlay.errors import RequestError
from overlay.preparation.metadata_table import read_metadata_column


def assign(labels: Sequence[str], groups: Sequence[str], split: Split) -> list[str]:
    """Return the split of each image; depends on labels, groups and seed, never on their order.

    No group lies on two sides, and every class is in every split. Where each group is a single image, the number of a
    class's images in a split is within one of its share, save where a class is so small that its share of a split is
    less than one image and the others' can't pay for it. Larger groups bring it as near as they allow.

    Raises:
        RequestError: a class has fewer than three groups, or groups of several classes leave one out of a split.
    """
    check_sizes(labels, groups)
    return [SPLITS[side] for side in _deal(labels, groups, [getattr(split, name) for name in SPLITS], split.seed)]


def assign_folds(labels: Sequence[str], groups: Sequence[str], folds: int, seed: int) -> list[int]:
    """Return the fold of each image, counted from 0, by the rules of `assign` for equal shares.

    Raises:
        RequestError: a class has fewer groups than there are folds, or groups of several classes leave one out of a
            fold.
    """
    check_sizes(labels, groups, folds)
    return _deal(labels, groups, [1 / folds] * folds, seed)


def share_deviation(labels: Sequence[str], sides: Sequence[str]) -> dict[str, float]:
    """Return for each side the largest difference, in points, of a class's share there from its share of the whole."""
    whole, sizes = Counter(labels), Counter(sides)
    both = Counter(zip(labels, sides, strict=True))
    return {
        side: max(abs(100 * both[label, side] / size - 100 * count / len(labels)) for label, count in whole.items())
        for side, size in sorted(sizes.items())
    }


def _deal(labels: Sequence[str], groups: Sequence[str], shares: list[float], seed: int) -> list[int]:
    kinds, label_of = np.unique(np.array(labels, object), return_inverse=True)
    names, group_of = np.unique(np.array(groups, object), return_inverse=True)
    # Each class in each group is a member; those of a group stand together.
    members, counts = np.unique(group_of * len(kinds) + label_of, return_counts=True)
    starts = np.searchsorted(members, np.arange(len(names) + 1) * len(kinds))
    sizes: list[int] = np.bincount(label_of).tolist()
    waiting: list[int] = np.bincount(members % len(kinds)).tolist()  # groups that are not dealt yet, of each class
    deficits = [_quota(size, shares) for size in sizes]
    missing = [set(range(len(shares))) for _ in sizes]
    sides = np.zeros(len(names), np.int64)
    totals, draws = np.bincount(group_of), [_draw(seed, name) for name in names]
    for group in sorted(range(len(names)), key=lambda group: (-totals[group], draws[group])):
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
    for label, lacking in zip(kinds, missing, strict=True):
        if lacking:
            raise RequestError(
                f"class {label} can't be in every split, since its groups are tied to those of other classes; "
                "use another split.seed, or a split.group_by that makes smaller groups"
            )
    dealt: list[int] = sides[group_of].tolist()
    return dealt


def check_sizes(labels: Sequence[str], groups: Sequence[str], folds: int | None = None) -> None:
    """Refuse a class that can't be in every split, or in every fold.

    Raises:
        RequestError: a class has fewer groups than three, or than folds; names the class and both counts.
    """
    images = Counter(labels)
    distinct = Counter(label for label, _ in set(zip(labels, groups, strict=True)))
    where, least = (f"in each of {folds} folds", folds) if folds else ("in train, val and test", len(SPLITS))
    for label in sorted(images):
        if distinct[label] < least:
            grouped = f" in {distinct[label]} groups" if distinct[label] < images[label] else ""
            unit = "groups" if grouped else "images"
            raise RequestError(
                f"class {label} has {images[label]} images{grouped}, too few to be {where}; it needs at least {least} "
                f"{unit}"
            )


def read_groups_of(ids: Sequence[str], paths: Sequence[str], group_by: str | None) -> list[str]:
    """Return each image's group by ``split.group_by``, or its id where that finds nothing.

    Raises:
        RequestError: the pattern is no regular expression, or matches no path at all; or as `read_column`.
    """
    if group_by is None:
        return list(ids)
    if table_column(group_by):
        found = read_metadata_column("split.group_by", group_by, ids, paths)
    else:
        compiled = compile_pattern(group_by)
        found = [group_of(path, compiled) for path in paths]
        if not any(found):
            raise RequestError(f"split.group_by {group_by!r} matches no path; a path looks like {paths[0]!r}")
    return [group or id for group, id in zip(found, ids, strict=True)]


def read_splits(ids: Sequence[str], paths: Sequence[str], column: str) -> list[str]:
    """Return each image's split by ``split.column``.

    Raises:
        RequestError: an image has none, or another than train, val and test; one of these has no image; or as
            `read_column`.
    """
    found = read_metadata_column("split.column", column, ids, paths)
    sides = []
    for id, side in zip(ids, found, strict=True):
        if side not in SPLITS:
            said = "has no value" if side is None else f"is {side!r}"
            raise RequestError(f"split.column {column} {said} for {id}; give each image train, val or test")
        sides.append(side)
    if lacking := [name for name in SPLITS if name not in sides]:
        raise RequestError(f"split.column {column} has no image in {lacking[0]}; give it at least one")
    return sides


def group_of(path: str, pattern: re.Pattern[str]) -> str | None:
    """Return the first capture group of the first match, or the whole match where the pattern has no capture group."""
    match = pattern.search(path)
    if match is None:
        return None
    return match[1] if pattern.groups else match[0]


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """Compile ``split.group_by``.

    Raises:
        RequestError: it is no regular expression.
    """
    try:
        return re.compile(pattern)
    except re.error as error:
        raise RequestError(f"split.group_by {pattern!r} is no regular expression: {error}") from error


def _quota(size: int, shares: list[float]) -> list[int]:
    """Divide ``size`` images, at least as many as there are shares, by largest remainder, and at least one each."""
    exact = [size * share for share in shares]
    counts = [max(1, int(part)) for part in exact]
    while sum(counts) < size:
        counts[max(range(len(shares)), key=lambda i: (exact[i] - counts[i], -i))] += 1
    while sum(counts) > size:
        counts[max((i for i in range(len(shares)) if counts[i] > 1), key=lambda i: (counts[i] - exact[i], -i))] -= 1
    return counts


def _draw(seed: int, group: str) -> bytes:
    """Give a group its place in the random order, which does not depend on what other groups there are."""
    return hashlib.sha256(f"{seed}:{group}".encode()).digest()
