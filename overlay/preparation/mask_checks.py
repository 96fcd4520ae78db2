"""Checks of the masks of a dataset: inverted masks, masks of nearly the whole image, empty masks, counted a class."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from overlay.preparation.staging import staged_path
from overlay.storage.ahead import read_ahead
from overlay.storage.parquet import open_parquet
from overlay.storage.path import StoragePath

_LARGE, _HALF = 0.9, 0.5
_COLUMNS = ["label", "mask.path", "mask_area_share", "mask_extent"]


@dataclass(frozen=True)
class MaskCounts:
    """Masks of a class, and how many of them may be wrong."""

    masks: int = 0
    """images with a mask"""
    empty: int = 0
    """without a lesion, in a class where other masks have one"""
    inverted: int = 0
    """of more than half of the image, with a bounding box that is the whole image, as that of an inverted mask is"""
    over_90_percent: int = 0
    """of more than 90 % of the image"""

    def __add__(self, other: "MaskCounts") -> "MaskCounts":
        return MaskCounts(*(mine + theirs for mine, theirs in zip(_values(self), _values(other), strict=True)))


def count_masks(staged: StoragePath, parts: int) -> dict[str, MaskCounts]:
    """Return class -> counts of its masks, from the staged files of a preparation.

    Raises:
        OSError: a staged file can't be read.
    """
    found: dict[str, MaskCounts] = {}

    def read(part: int) -> pa.Table:
        return open_parquet(staged_path(staged, part)).read(columns=_COLUMNS)

    for table in read_ahead(staged, read, range(parts)):
        masked = table.filter(pc.is_valid(pc.struct_field(table["mask"].combine_chunks(), "path")))
        for label in pc.unique(masked["label"]).to_pylist():
            own = masked.filter(pc.equal(masked["label"], label))
            found[label] = found.get(label, MaskCounts()) + _count(own["mask_area_share"], own["mask_extent"])
    return {label: _without_normal(counts) for label, counts in sorted(found.items())}


def describe_masks(counts: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Return a line for each class with masks that may be wrong; ``counts``: class -> the fields of `MaskCounts`."""
    lines = []
    for label, numbers in counts.items():
        kinds = {
            "empty": "have no lesion, where others of the class have one",
            "inverted": "look inverted",
            "over_90_percent": "cover more than 90 % of the image",
        }
        said = [f"{numbers[kind]} {text}" for kind, text in kinds.items() if numbers[kind]]
        if said:
            lines.append(f"CHECK THE MASKS of {label}: of {numbers['masks']}, {'; '.join(said)}")
    return lines


def _count(area_share: pa.ChunkedArray, extent: pa.ChunkedArray) -> MaskCounts:
    """Return the counts of one class; both measurements are null for an empty mask."""
    share, fill = (pc.fill_null(values, 0).to_numpy() for values in (area_share, extent))
    # The box of the lesion is the whole image where the lesion fills as much of it as of the image.
    inverted = (share > _HALF) & (share < 1) & np.isclose(share, fill)
    return MaskCounts(len(share), int((share == 0).sum()), int(inverted.sum()), int((share > _LARGE).sum()))


def _without_normal(counts: MaskCounts) -> MaskCounts:
    """Return the counts without empty masks where all are, as for a class of images without a lesion."""
    if counts.empty < counts.masks:
        return counts
    return MaskCounts(counts.masks)


def _values(counts: MaskCounts) -> tuple[int, ...]:
    return tuple(asdict(counts).values())
