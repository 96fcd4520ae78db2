"""What a prepared dataset is: the columns of its tables, and how it is opened.

A dataset is a folder: ``data/part-*.parquet`` with the images' bytes in it, ``manifest.parquet`` with what was found
in the sources, ``rejected.parquet`` with what takes no part, ``duplicates.parquet`` with the near-duplicates, two
pictures to look at, and ``dataset.json``, the card. The card is written last: a folder without it is no dataset yet.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
from pyarrow.fs import FileSystem

from overlay.archives.index import SPAN_TYPE
from overlay.card import CARD, Card, read_card
from overlay.errors import RequestError
from overlay.storage.path import Place

_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_Folder = TypeVar("_Folder", Path, Place)
_COLUMNS = [
    ("id", pa.string()),
    ("image", _IMAGE),
    ("label", pa.string()),
    ("split", pa.string()),
    ("fold", pa.int32()),
    ("group", pa.string()),
    ("width", pa.int32()),
    ("height", pa.int32()),
    ("phash", pa.string()),
    ("overlay", pa.string()),
    ("source", pa.string()),
    ("mask_area_share", pa.float64()),
    ("mask_aspect", pa.float64()),
    ("mask_extent", pa.float64()),
    ("mask_compactness", pa.float64()),
    ("mask_lesions", pa.int32()),
]


def _hugging_face() -> dict[str, str]:
    """Return the metadata by which Hugging Face `datasets` knows an image column (its arrow_writer writes the same)."""
    values = {name: {"dtype": str(kind).replace("double", "float64"), "_type": "Value"} for name, kind in _COLUMNS}
    return {"huggingface": json.dumps({"info": {"features": values | {"image": {"_type": "Image"}}}})}


SCHEMA = pa.schema(_COLUMNS, metadata=_hugging_face())
"""a row of ``data/``; the mask's numbers are null where there was no mask, and so is the fold without folds"""
MANIFEST_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("uri", pa.string()),
        ("member", pa.string()),
        ("masks", pa.list_(pa.string())),
        ("label", pa.string()),
        ("group", pa.string()),
        ("split", pa.string()),
        ("source", pa.string()),
        ("path", pa.string()),
        ("spans", pa.list_(SPAN_TYPE)),
    ]
)
"""an image as it was listed; group and split are those of split.group_by, or the id, and of split.column, or null"""
REJECTED_SCHEMA = pa.schema([(name, pa.string()) for name in ("id", "uri", "label", "reason")])


@dataclass(frozen=True)
class PreparedDataset:
    """A dataset that is complete."""

    path: str
    card: Card

    @property
    def place(self) -> Place:
        """The folder."""
        return Place.of(self.path)

    @property
    def filesystem(self) -> FileSystem | None:
        """What reads ``data_files``; None for local paths."""
        return self.place.filesystem

    def data_files(self) -> list[str]:
        """Return the paths, within ``filesystem``, of the Parquet files that hold the images."""
        return [part_path(self.place, part).path for part in range(self.card.parts)]


def is_dataset(path: str | Path | Place) -> bool:
    """Whether a folder holds a dataset that is complete, of whatever version."""
    return (Place.of(path) / CARD).is_file()


def open_dataset(path: str | Path | Place) -> PreparedDataset:
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
