"""Near-duplicates by perceptual hash: pairs, label conflicts, groups for a group split, and leakage.

Two images are near-duplicates where their perceptual hashes differ in few bits, and identical where their decoded
pixels are equal, both before an overlay is drawn. A group is a connected component of images that are near-duplicates
or have the same group by ``split.group_by``; a group split keeps it on one side.
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
"""columns of ``duplicates.parquet``: one row a pair, sorted by ``id_a`` and ``id_b``, with ``id_a < id_b``"""


@dataclass(frozen=True)
class NearDuplicates:
    """Near-duplicates among the images of a table."""

    ids: pa.StringArray
    labels: pa.StringArray
    pairs: Pairs
    """of row indices of the table"""
    identical: NDArray[np.bool_]
    """(pairs,) whether the pixels are equal"""
    conflicts: NDArray[np.bool_]
    """(pairs,) whether the labels differ"""

    def table(self) -> pa.Table:
        """Return the pairs with the columns of ``DUPLICATES_SCHEMA``."""
        ids, labels = self.ids, self.labels
        first, second = self.pairs.first, self.pairs.second
        distance = pa.array(self.pairs.distance, pa.int32())
        columns = [ids.take(first), ids.take(second), distance, self.identical, labels.take(first), labels.take(second)]
        return pa.table(columns, schema=DUPLICATES_SCHEMA)

    def order_by_conflict(self) -> NDArray[np.int64]:
        """Return the order of the pairs, (pairs,): by label conflict, then by identical pixels, then by distance."""
        return np.lexsort((self.pairs.second, self.pairs.first, self.pairs.distance, ~self.identical, ~self.conflicts))

    def describe(self, pair: int) -> str:
        """Return the ids, the labels and the distance of a pair as one line of text."""
        a, b = (f"{self.ids[i]} ({self.labels[i]})" for i in self.endpoints(pair))
        return f"{a} and {b}: {self.describe_distance(pair)}"

    def endpoints(self, pair: int) -> tuple[int, int]:
        """Return the row indices of the two images of a pair."""
        return int(self.pairs.first[pair]), int(self.pairs.second[pair])

    def describe_distance(self, pair: int) -> str:
        """Return the distance of a pair as text: "identical pixels" or its Hamming distance."""
        return "identical pixels" if self.identical[pair] else f"distance {self.pairs.distance[pair]}"

    def conflict_reasons(self) -> dict[str, str]:
        """Return id -> reason for each image that has a near-duplicate with another label."""
        reasons: dict[str, str] = {}
        for pair in self.order_by_conflict()[: int(self.conflicts.sum())]:
            a, b = self.endpoints(int(pair))
            for this, other in ((a, b), (b, a)):
                reason = f"label conflict: {self.ids[other]} is {self.labels[other]} ({self.describe_distance(pair)})"
                reasons.setdefault(str(self.ids[this]), reason)
        return reasons


def search_pairs(phash: pa.ChunkedArray, distance: int) -> Pairs:
    """Return the pairs of perceptual hashes, 32 bytes each, that differ in at most ``distance`` bits.

    The search is exact. Beyond 5 million pairs only a spanning forest is listed, which links the same groups
    (``complete`` is false then). The peak memory is about 150 bytes a hash.
    """
    return near_pairs(parse_hashes(phash), distance)


def describe_pairs(images: pa.Table, pairs: Pairs) -> NearDuplicates:
    """Return the near-duplicates of a table with ``id``, ``label`` and ``pixels`` (a digest), sorted by ``id``.

    ``pairs``: of the table's rows, by `search_pairs`.
    """
    identical, agree = (
        pc.equal(images[name].take(pairs.first), images[name].take(pairs.second)).to_numpy()
        for name in ("pixels", "label")
    )
    ids, names = images["id"].combine_chunks(), images["label"].combine_chunks()
    return NearDuplicates(ids, names, pairs, identical, ~agree)


def join_groups(own: pa.ChunkedArray, ids: pa.ChunkedArray, pairs: Pairs) -> pa.Array:
    """Return the group of each image: near-duplicates joined with the user's ``own`` groups, string (n,).

    Where ``own`` is null, the image is a group of its own, named by its id; ``ids`` are sorted. A joined group has the
    alphabetically first name of the own groups in it.
    """
    if not len(own):
        return pa.array([], pa.string())
    if own.null_count == len(own):  # the common case, in a third of the memory
        components = connected_components([(pairs.first, pairs.second)], len(own))
        first = np.full(components.max() + 1, len(own))
        np.minimum.at(first, components, np.arange(len(own)))
        return ids.combine_chunks().take(pa.array(first[components]))
    own = pc.coalesce(own, ids)
    names = pc.unique(own).sort()
    code = pc.index_in(own, names).to_numpy()
    # Nodes are the images and then the own groups; each image is linked to its own group.
    links = [(pairs.first, pairs.second), (np.arange(len(own)), len(own) + code)]
    components = connected_components(links, len(own) + len(names))
    first = np.full(components.max() + 1, len(names))
    np.minimum.at(first, components[len(own) :], np.arange(len(names)))
    return names.take(pa.array(first[components[: len(own)]]))


@dataclass(frozen=True)
class Leakage:
    """Leakage of a split: near-duplicates and groups that are on more than one side."""

    pairs: int
    """near-duplicates across sides, including identical ones"""
    identical: int
    """identical pairs across sides"""
    groups: int
    """groups with images on more than one side"""

    def __bool__(self) -> bool:
        return self.pairs + self.groups > 0


def find_leakage(sides: pa.Array, groups: pa.Array, duplicates: NearDuplicates) -> Leakage:
    """Count the leakage of a split, given the side and the group of each image of ``duplicates``, string (n,).

    Images whose side is null are ignored; their group may be null.
    """
    side, group = category_codes(sides), category_codes(groups)
    first, second = duplicates.pairs.first, duplicates.pairs.second
    across = (side[first] != side[second]) & (side[first] >= 0) & (side[second] >= 0)
    present = side >= 0
    both = np.unique(np.stack([group[present], side[present]]), axis=1)
    several = int((np.bincount(both[0]) > 1).sum()) if both.size else 0
    return Leakage(int(across.sum()), int((across & duplicates.identical).sum()), several)


def category_codes(values: pa.Array | pa.ChunkedArray) -> NDArray[np.int64]:
    """Return the integer code of each value, (n,), equal for equal values; -1 for null."""
    found: NDArray[np.int64] = pc.fill_null(pc.index_in(values, pc.drop_null(pc.unique(values))), -1).to_numpy(
        zero_copy_only=False
    )
    return found


def resolve_conflicts(
    images: pa.Table, duplicates: NearDuplicates, conflicts: Literal["keep", "drop", "stop"]
) -> tuple[pa.Table, pa.Table]:
    """Join the groups of a table with its near-duplicates; return the kept rows and the dropped rows.

    ``images`` has ``id``, ``label`` and ``group``; a row whose ``group`` is null is a group of its own. The kept rows
    have their row index in ``duplicates`` as ``place``, the dropped rows also a ``reason``.

    Raises:
        WorkError: near-duplicates have different labels, and ``conflicts`` is stop.
    """
    contradicted = duplicates.conflict_reasons() if conflicts != "keep" else {}
    if contradicted and conflicts == "stop":
        number = int(duplicates.conflicts.sum())
        shown = "; ".join(duplicates.describe(int(pair)) for pair in duplicates.order_by_conflict()[: min(3, number)])
        raise WorkError(
            f"{number} pairs of near-duplicates have different labels: {shown}{'; ...' if number > 3 else ''}; mend "
            "the labels, or choose duplicates.conflicts keep or drop"
        )
    groups = join_groups(images["group"], images["id"], duplicates.pairs)
    grouped = images.set_column(images.schema.get_field_index("group"), "group", groups)
    grouped = grouped.append_column("place", pa.array(np.arange(images.num_rows)))
    dropped = pc.is_in(images["id"], pa.array(list(contradicted), pa.string()))
    rejected = grouped.filter(dropped)
    reasons = pa.array([contradicted[id] for id in rejected["id"].to_pylist()], pa.string())
    return grouped if not contradicted else grouped.filter(pc.invert(dropped)), rejected.append_column(
        "reason", reasons
    )
