"""Prepared dataset: its files, and how it is opened.

A dataset is a folder: ``data/part-*.parquet`` with the images, ``manifest.parquet`` with all inputs,
``rejected.parquet`` with the rejected ones, ``duplicates.parquet`` with the near-duplicates, two contact sheets, and
``dataset.json``, the card. The card is written last (commit): a folder without it is not a dataset yet.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pyarrow.fs import FileSystem

from overlay.dataset.card import CARD_FILE, DatasetCard, read_card
from overlay.errors import RequestError
from overlay.storage.path import StoragePath

_Folder = TypeVar("_Folder", Path, StoragePath)


@dataclass(frozen=True)
class PreparedDataset:
    """Complete prepared dataset."""

    path: str
    card: DatasetCard

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
        RequestError: there is no dataset, its card is damaged, a file is missing, or a newer version wrote it.
        OSError: the card can't be read.
    """
    dataset = PreparedDataset(str(path), read_card(path))
    there = set((dataset.place / "data").children())
    for part in range(dataset.card.parts):
        if (file := part_path(dataset.place, part)).name not in there:
            raise RequestError(f"{file} is missing from the dataset; prepare it anew with --overwrite")
    return dataset


def part_path(folder: _Folder, part: int) -> _Folder:
    """Return the path of one Parquet file of images, counted from 0."""
    return folder / "data" / f"part-{part:05d}.parquet"
