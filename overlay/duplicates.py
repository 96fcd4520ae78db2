"""Near-duplicates: which pairs there are, which of them carry different labels, and the groups that they make.

Two images are near-duplicates where their perceptual hashes differ in few bits, and identical where their decoded
pixels are equal, both before an overlay is drawn. A group is all that is linked by near-duplicates, or belongs to one
group of the user's own; it lies on one side of a split.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from overlay.hamming import Pairs, connected, near_pairs, parse

DUPLICATES_SCHEMA = pa.schema(
    [
        ("id_a", pa.string()),
        ("id_b", pa.string()),
        ("distance", pa.int32()),
        ("identical_pixels", pa.bool_()),
        ("label_a", pa.string()),
        ("label_b", pa.string()),
    ]
)
"""a row of ``duplicates.parquet``, one a pair; sorted by the ids, of which ``id_a`` comes first"""


@dataclass(frozen=True)
class Duplicates:
    """The near-duplicates among a list of images."""

    ids: Sequence[str]
    labels: Sequence[str]
    pairs: Pairs
    """of places in the list"""
    identical: NDArray[np.bool_]
    """of each pair: whether the pixels are equal"""
    conflicts: NDArray[np.bool_]
    """of each pair: whether the labels differ"""

    def table(self) -> pa.Table:
        """Return the pairs with the columns of ``DUPLICATES_SCHEMA``."""
        ids, labels = pa.array(self.ids, pa.string()), pa.array(self.labels, pa.string())
        first, second = self.pairs.first, self.pairs.second
        distance = pa.array(self.pairs.distance, pa.int32())
        columns = [ids.take(first), ids.take(second), distance, self.identical, labels.take(first), labels.take(second)]
        return pa.table(columns, schema=DUPLICATES_SCHEMA)

    def conflicts_first(self) -> NDArray[np.int64]:
        """Return the places of the pairs: those with different labels first, identical pixels and near ones first."""
        return np.lexsort((self.pairs.second, self.pairs.first, self.pairs.distance, ~self.identical, ~self.conflicts))

    def describe(self, pair: int) -> str:
        """Say in words which images a pair is, by its place, and how far apart they are."""
        a, b = (f"{self.ids[i]} ({self.labels[i]})" for i in (self.pairs.first[pair], self.pairs.second[pair]))
        return f"{a} and {b}: {self.apart(pair)}"

    def apart(self, pair: int) -> str:
        """Say how far apart a pair is."""
        return "identical pixels" if self.identical[pair] else f"distance {self.pairs.distance[pair]}"

    def contradicted(self) -> dict[str, str]:
        """Return the id of each image that has a near-duplicate with another label -> the reason to reject it."""
        reasons: dict[str, str] = {}
        for pair in self.conflicts_first()[: int(self.conflicts.sum())]:
            a, b = int(self.pairs.first[pair]), int(self.pairs.second[pair])
            for this, other in ((a, b), (b, a)):
                reason = f"label conflict: {self.ids[other]} is {self.labels[other]} ({self.apart(pair)})"
                reasons.setdefault(self.ids[this], reason)
        return reasons


def find(rows: Sequence[dict[str, Any]], distance: int) -> Duplicates:
    """Find the near-duplicates among rows, sorted by ``id``, with ``label``, ``phash`` and ``pixels``, a hash of these.

    Every pair within the distance is found. Beyond 5 million pairs only some are listed, which link the same groups
    (``pairs.complete`` is false then).
    """
    pairs = near_pairs(parse([row["phash"] for row in rows]), distance)
    labels = [row["label"] for row in rows]
    names = _codes(labels)
    pixels = _codes([row["pixels"] for row in rows])
    identical, agree = (codes[pairs.first] == codes[pairs.second] for codes in (pixels, names))
    return Duplicates([row["id"] for row in rows], labels, pairs, identical, ~agree)


def join(own: Sequence[str], pairs: Pairs) -> list[str]:
    """Return the group of each image: linked near-duplicates joined with the user's ``own`` groups.

    A group is called by the first name, in the order of the alphabet, of the own groups in it.
    """
    if not own:
        return []
    names, codes = np.unique(np.array(own, object), return_inverse=True)
    # Each own group is a node beside the images, to which its images are linked.
    links = [(pairs.first, pairs.second), (np.arange(len(own)), len(own) + codes)]
    components = connected(links, len(own) + len(names))
    first: dict[int, str] = {}
    for component, name in zip(components[len(own) :].tolist(), names, strict=True):
        first.setdefault(component, name)  # the names are in order
    return [first[component] for component in components[: len(own)].tolist()]


@dataclass(frozen=True)
class Leaks:
    """What lies on two sides of a split and should not."""

    pairs: int
    """near-duplicates, the identical ones among them"""
    identical: int
    groups: int

    def __bool__(self) -> bool:
        return self.pairs + self.groups > 0


def leaks(sides: Mapping[str, str], groups: Mapping[str, str], duplicates: Duplicates) -> Leaks:
    """Count what a split tears apart, given the side and the group of each image by its id.

    Images of ``duplicates`` that have no side take no part.
    """
    codes = _codes([sides.get(id, "") for id in duplicates.ids])
    present = np.array([id in sides for id in duplicates.ids], bool)
    first, second = duplicates.pairs.first, duplicates.pairs.second
    torn = (codes[first] != codes[second]) & present[first] & present[second]
    where = Counter(group for group, _ in {(groups[id], side) for id, side in sides.items()})
    several = sum(number > 1 for number in where.values())
    return Leaks(int(torn.sum()), int((torn & duplicates.identical).sum()), several)


def _codes(values: Sequence[str]) -> NDArray[np.int64]:
    known: dict[str, int] = {}
    return np.array([known.setdefault(value, len(known)) for value in values], np.int64)
