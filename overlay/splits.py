"""Train, val and test: seeded, with the class shares kept, and every group on one side.

scikit-learn's StratifiedGroupKFold makes folds of equal size and may leave a class out of one; shares such as 0.7,
0.15, 0.15 and a class with three images both occur here. So the groups are dealt out greedily against exact targets,
the largest first, which is the rule of StratifiedGroupKFold and of Sechidis et al., "On the stratification of
multi-label data", ECML PKDD 2011.
"""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Sequence

from overlay.config import SPLITS, Split
from overlay.errors import RequestError


def assign(labels: Sequence[str], groups: Sequence[str], split: Split) -> list[str]:
    """Return the split of each image; depends on labels, groups and seed, never on their order.

    No group lies on two sides, and every class is in every split. Where each group is a single image, the number of a
    class's images in a split is within one of its share, save where a class is so small that its share of a split is
    less than one image and the others' can't pay for it. Larger groups bring it as near as they allow.

    Raises:
        RequestError: a class has fewer than three groups, or groups of several classes leave one out of a split.
    """
    check_sizes(labels, groups)
    members: dict[str, Counter[str]] = defaultdict(Counter)
    for label, group in zip(labels, groups, strict=True):
        members[group][label] += 1
    sizes = Counter(labels)
    targets = {label: _quota(size, [getattr(split, name) for name in SPLITS]) for label, size in sizes.items()}
    deficits = {label: list(target) for label, target in targets.items()}
    missing = {label: set(range(len(SPLITS))) for label in sizes}
    waiting = Counter(label for counts in members.values() for label in counts)
    sides: dict[str, int] = {}
    for group in sorted(members, key=lambda group: (-members[group].total(), _draw(split.seed, group))):
        counts = members[group]
        # A class with as many groups left as splits that lack it can't wait any longer.
        urgent = [label for label in counts if waiting[label] <= len(missing[label])]
        side = max(
            range(len(SPLITS)),
            key=lambda side: (
                sum(side in missing[label] for label in urgent),
                # What the squared error of the classes' shares falls by, without the part that all sides have.
                sum(count * deficits[label][side] / sizes[label] ** 2 for label, count in counts.items()),
                -side,
            ),
        )
        sides[group] = side
        for label, count in counts.items():
            deficits[label][side] -= count
            missing[label].discard(side)
            waiting[label] -= 1
    for label in sorted(sizes):
        if missing[label]:
            raise RequestError(
                f"class {label} can't be in every split, since its groups are tied to those of other classes; "
                "use another split.seed, or a split.group_by that makes smaller groups"
            )
    return [SPLITS[sides[group]] for group in groups]


def check_sizes(labels: Sequence[str], groups: Sequence[str]) -> None:
    """Refuse a class that can't be in every split.

    Raises:
        RequestError: a class has fewer than three groups; names the class and both counts.
    """
    images = Counter(labels)
    distinct = Counter(label for label, _ in set(zip(labels, groups, strict=True)))
    for label in sorted(images):
        if distinct[label] < len(SPLITS):
            grouped = f" in {distinct[label]} groups" if distinct[label] < images[label] else ""
            unit = "groups" if grouped else "images"
            raise RequestError(
                f"class {label} has {images[label]} images{grouped}, too few to be in train, val and test; "
                f"it needs at least {len(SPLITS)} {unit}"
            )


def groups_of(ids: Sequence[str], paths: Sequence[str], pattern: str | None) -> list[str]:
    """Return each image's group: what ``split.group_by`` finds in its path, or its id where it finds nothing.

    Raises:
        RequestError: the pattern is no regular expression, or matches no path at all.
    """
    if pattern is None:
        return list(ids)
    compiled = compile_pattern(pattern)
    found = [group_of(path, compiled) for path in paths]
    if not any(found):
        raise RequestError(f"split.group_by {pattern!r} matches no path; a path looks like {paths[0]!r}")
    return [group or id for group, id in zip(found, ids, strict=True)]


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
