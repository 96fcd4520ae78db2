"""Near-duplicates: which pairs there are, which of them carry different labels, and the groups that they make.

Two images are near-duplicates where their perceptual hashes differ in few bits, and identical where their decoded
pixels are equal, both before an overlay is drawn. A group is all that is linked by near-duplicates, or belongs to one
group of the user's own; it lies on one side of a split.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from overlay.duplicates.hamming import near_pairs, parse_hashes
from overlay.duplicates.pairs import Pairs, connected_components
from overlay.errors import WorkError

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
class NearDuplicates:
    """The near-duplicates among the images of a table."""

    ids: pa.StringArray
    labels: pa.StringArray
    pairs: Pairs
    """of places in the table"""
    identical: NDArray[np.bool_]
    """of each pair: whether the pixels are equal"""
    conflicts: NDArray[np.bool_]
    """of each pair: whether the labels differ"""

    def table(self) -> pa.Table:
        """Return the pairs with the columns of ``DUPLICATES_SCHEMA``."""
        ids, labels = self.ids, self.labels
        first, second = self.pairs.first, self.pairs.second
        distance = pa.array(self.pairs.distance, pa.int32())
        columns = [ids.take(first), ids.take(second), distance, self.identical, labels.take(first), labels.take(second)]
        return pa.table(columns, schema=DUPLICATES_SCHEMA)

    def conflicts_first(self) -> NDArray[np.int64]:
        """Return the places of the pairs: those with different labels first, identical pixels and near ones first."""
        return np.lexsort((self.pairs.second, self.pairs.first, self.pairs.distance, ~self.identical, ~self.conflicts))

    def describe(self, pair: int) -> str:
        """Say in words which images a pair is, by its place, and how far apart they are."""
        a, b = (f"{self.ids[i]} ({self.labels[i]})" for i in self.ends(pair))
        return f"{a} and {b}: {self.apart(pair)}"

    def ends(self, pair: int) -> tuple[int, int]:
        """Return the places of the two images of a pair."""
        return int(self.pairs.first[pair]), int(self.pairs.second[pair])

    def apart(self, pair: int) -> str:
        """Say how far apart a pair is."""
        return "identical pixels" if self.identical[pair] else f"distance {self.pairs.distance[pair]}"

    def contradicted(self) -> dict[str, str]:
        """Return the id of each image that has a near-duplicate with another label -> the reason to reject it."""
        reasons: dict[str, str] = {}
        for pair in self.conflicts_first()[: int(self.conflicts.sum())]:
            a, b = self.ends(int(pair))
            for this, other in ((a, b), (b, a)):
                reason = f"label conflict: {self.ids[other]} is {self.labels[other]} ({self.apart(pair)})"
                reasons.setdefault(str(self.ids[this]), reason)
        return reasons


def find_near_duplicates(images: pa.Table, distance: int) -> NearDuplicates:
    """Find the near-duplicates in a table, sorted by ``id``, with ``label``, ``phash`` and ``pixels``, digests both.

    Every pair within the distance is found. Beyond 5 million pairs only some are listed, which link the same groups
    (``pairs.complete`` is false then).
    """
    pairs = near_pairs(parse_hashes(images["phash"]), distance)
    labels, pixels = category_codes(images["label"]), category_codes(images["pixels"])
    identical, agree = (code[pairs.first] == code[pairs.second] for code in (pixels, labels))
    ids, names = (pa.concat_arrays(images[name].chunks or [pa.array([], pa.string())]) for name in ("id", "label"))
    return NearDuplicates(ids, names, pairs, identical, ~agree)


def join_groups(own: pa.ChunkedArray, pairs: Pairs) -> pa.Array:
    """Return the group of each image: linked near-duplicates joined with the user's ``own`` groups.

    A group is called by the first name, in the order of the alphabet, of the own groups in it.
    """
    if not len(own):
        return pa.array([], pa.string())
    names = pc.unique(own).sort()
    code = pc.index_in(own, names).to_numpy()
    # Each own group is a node beside the images, to which its images are linked.
    links = [(pairs.first, pairs.second), (np.arange(len(own)), len(own) + code)]
    components = connected_components(links, len(own) + len(names))
    first = np.full(components.max() + 1, len(names))
    np.minimum.at(first, components[len(own) :], np.arange(len(names)))
    return names.take(pa.array(first[components[: len(own)]]))


@dataclass(frozen=True)
class Leakage:
    """What lies on two sides of a split and should not."""

    pairs: int
    """near-duplicates, the identical ones among them"""
    identical: int
    groups: int

    def __bool__(self) -> bool:
        return self.pairs + self.groups > 0


def find_leakage(sides: pa.Array, groups: pa.Array, duplicates: NearDuplicates) -> Leakage:
    """Count what a split tears apart, given the side and the group of each image of ``duplicates``, texts (n,).

    An image whose side is null takes no part; it needs no group.
    """
    side, group = category_codes(sides), category_codes(groups)
    first, second = duplicates.pairs.first, duplicates.pairs.second
    torn = (side[first] != side[second]) & (side[first] >= 0) & (side[second] >= 0)
    present = side >= 0
    both = np.unique(np.stack([group[present], side[present]]), axis=1)
    several = int((np.bincount(both[0]) > 1).sum()) if both.size else 0
    return Leakage(int(torn.sum()), int((torn & duplicates.identical).sum()), several)


def category_codes(values: pa.Array | pa.ChunkedArray) -> NDArray[np.int64]:
    """Return a number for each value, the same for equal ones; -1 where it is null."""
    found: NDArray[np.int64] = pc.fill_null(pc.index_in(values, pc.drop_null(pc.unique(values))), -1).to_numpy(
        zero_copy_only=False
    )
    return found


def resolve_conflicts(
    images: pa.Table, duplicates: NearDuplicates, conflicts: Literal["keep", "drop", "stop"]
) -> tuple[pa.Table, pa.Table]:
    """Join the groups of a table with its near-duplicates; return the rows that stay and those that are dropped.

    A row whose ``group`` is null is a group of its own, called by its ``id``.
    Those that stay have their ``place`` in ``duplicates``, and those that are dropped the ``reason``.

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
    groups = join_groups(pc.coalesce(images["group"], images["id"]), duplicates.pairs)
    grouped = images.set_column(images.schema.get_field_index("group"), "group", groups)
    grouped = grouped.append_column("place", pa.array(np.arange(images.num_rows)))
    dropped = pc.is_in(images["id"], pa.array(list(contradicted), pa.string()))
    rejected = grouped.filter(dropped)
    reasons = pa.array([contradicted[id] for id in rejected["id"].to_pylist()], pa.string())
    return grouped if not contradicted else grouped.filter(pc.invert(dropped)), rejected.append_column(
        "reason", reasons
    )
