"""What a prepared dataset is: the columns of its tables, and how it is opened.

A dataset is a folder: ``data/part-*.parquet`` with the images' bytes in it, ``manifest.parquet`` with what was found
in the sources, ``rejected.parquet`` with what takes no part, ``duplicates.parquet`` with the near-duplicates, two
pictures to look at, and ``dataset.json``, the card. The card is written last: a folder without it is no dataset yet.
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
    """A dataset that is complete."""

    path: str
    card: DatasetCard

    @property
    def place(self) -> StoragePath:
        """The folder."""
        return StoragePath.of(self.path)

    @property
    def filesystem(self) -> FileSystem | None:
        """What reads ``data_files``; None for local paths."""
        return self.place.filesystem

    def data_files(self) -> list[str]:
        """Return the paths, within ``filesystem``, of the Parquet files that hold the images."""
        return [part_path(self.place, part).path for part in range(self.card.parts)]


def is_dataset(path: str | Path | StoragePath) -> bool:
    """Whether a folder holds a dataset that is complete, of whatever version."""
    return (StoragePath.of(path) / CARD_FILE).is_file()


def open_dataset(path: str | Path | StoragePath) -> PreparedDataset:
    """Open a prepared dataset; reads the card only.

    Raises:
        RequestError: there is none, it is incomplete, or a newer version wrote it.
    """
    dataset = PreparedDataset(str(path), read_card(path))
    there = set((dataset.place / "data").children())
    for part in range(dataset.card.parts):
        if (file := part_path(dataset.place, part)).name not in there:
            raise RequestError(f"{file} is missing from the dataset; prepare it anew with --overwrite")
    return dataset


def part_path(folder: _Folder, part: int) -> _Folder:
    """Return the path of one Parquet file of a dataset."""
    return folder / "data" / f"part-{part:05d}.parquet"
