"""Prepared dataset: its files, and how it is opened.

A dataset is a folder: ``data/part-*.parquet`` with the images, ``manifest.parquet`` with all inputs,
``rejected.parquet`` with the rejected ones, ``duplicates.parquet`` with the near-duplicates, two contact sheets, and
``dataset.json``, the card. The card is written last (commit): a folder without it is not a dataset yet.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
from pyarrow.fs import FileSystem

from overlay.dataset.card import CARD_FILE, DatasetCard, read_card
from overlay.dataset.schema import DATASET_SCHEMA
from overlay.errors import RequestError
from overlay.storage.path import StoragePath

_SCALED_CONTOURS = 3  # first format whose contours are as wide at each image size
_Folder = TypeVar("_Folder", Path, StoragePath)


@dataclass(frozen=True)
class RowSelection:
    """Rows of a dataset whose value in a column is one of some values."""

    column: str
    values: tuple[str, ...] | tuple[int, ...]

    @property
    def value_set(self) -> pa.Array:
        """Values as an array of the column's type."""
        return pa.array(self.values, DATASET_SCHEMA.field(self.column).type)


@dataclass(frozen=True)
class PreparedDataset:
    """Complete prepared dataset, divided by its column ``split`` or as one run of a cross-validation divides it."""

    path: str
    card: DatasetCard
    fold: int | None = None
    """run of the cross-validation, see `overlay.dataset.folds.select_fold`; None where the column ``split`` counts"""
    rotation: tuple[str, ...] = ()
    """split of each fold in that run"""

    def rows_of(self, split: str) -> RowSelection:
        """Return which rows are in a split."""
        if self.fold is None:
            return RowSelection("split", (split,))
        return RowSelection("fold", tuple(fold for fold, side in enumerate(self.rotation) if side == split))

    @property
    def unreadable(self) -> int:
        """Number of inputs that could not be read, and are not in the dataset."""
        return self.card.unreadable

    @property
    def place(self) -> StoragePath:
        """Folder of the dataset."""
        return StoragePath.of(self.path)

    @property
    def filesystem(self) -> FileSystem | None:
        """File system that reads ``data_files``; None for local paths."""
        return self.place.filesystem

    def data_files(self) -> list[str]:
        """Return the paths of the Parquet files with the images, within ``filesystem``."""
        return [part_path(self.place, part).path for part in range(self.card.parts)]


def is_dataset(path: str | Path | StoragePath) -> bool:
    """Whether a folder holds a complete dataset, of any version."""
    return (StoragePath.of(path) / CARD_FILE).is_file()


def open_dataset(path: str | Path | StoragePath) -> PreparedDataset:
    """Open a prepared dataset; reads the card, and checks that every file of images exists.

    Raises:
        RequestError: there is no dataset, its card is damaged, a file is missing, a newer version wrote it, or it has
            contours of a width in source pixels.
        OSError: the card can't be read.
    """
    dataset = PreparedDataset(str(path), read_card(path))
    if dataset.card.format < _SCALED_CONTOURS and dataset.card.request.overlay.style == "contour":
        raise RequestError(
            f"dataset {path} has contours of one width in source pixels, whatever the size of the image; prepare it "
            "anew with --overwrite"
        )
    there = set((dataset.place / "data").children())
    for part in range(dataset.card.parts):
        if (file := part_path(dataset.place, part)).name not in there:
            raise RequestError(f"{file} is missing from the dataset; prepare it anew with --overwrite")
    return dataset


def part_path(folder: _Folder, part: int) -> _Folder:
    """Return the path of one Parquet file of images, counted from 0."""
    return folder / "data" / f"part-{part:05d}.parquet"
