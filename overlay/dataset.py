"""What a prepared dataset is: the columns of its tables, its card, and how it is opened.

A dataset is a folder: ``data/part-*.parquet`` with the images' bytes in it, ``manifest.parquet`` with what was found
in the sources, ``rejected.parquet`` with what takes no part, ``duplicates.parquet`` with the near-duplicates, two
pictures to look at, and ``dataset.json``, the card. The card is written last: a folder without it is no dataset yet.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.fs import FileSystem

from overlay.archives import SPAN_TYPE
from overlay.config import Duplicates, OverlayStyle, Split, dotted
from overlay.errors import RequestError
from overlay.storage import Place, write_atomically

FORMAT = 1
"""format of the dataset that this version writes, and the newest that it reads"""
CARD = "dataset.json"
ROW_GROUP_ROWS = 64
ROW_GROUP_BYTES = 64 * 2**20

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
        ("source", pa.string()),
        ("path", pa.string()),
        ("spans", pa.list_(SPAN_TYPE)),
    ]
)
_ON_THE_WAY = ("uri", "sha256", "pixels", "reason")
STAGED_SCHEMA = pa.schema([*SCHEMA.remove_metadata(), *((name, pa.string()) for name in _ON_THE_WAY)])
"""a row on its way into ``data/``; split, fold and group are null, and with a reason all that comes from the pixels"""
REJECTED_SCHEMA = pa.schema([(name, pa.string()) for name in ("id", "uri", "label", "reason")])


@dataclass(frozen=True)
class Request:
    """What a dataset was made from, and how; the same request gives the same dataset."""

    sources: list[str]
    overlay: OverlayStyle
    split: Split
    max_pixels: int
    shard_rows: int
    listing: str
    """sha256 over the names that the sources held"""
    duplicates: Duplicates = field(default_factory=Duplicates)
    tables: str = ""
    """sha256 over what the tables of split.group_by and split.column said; empty without one"""

    def difference(self, other: "Request") -> str | None:
        """Say how another request differs, in the words of the options; None where it doesn't."""
        mine, others = dotted(asdict(self)), dotted(asdict(other))
        for option, value in mine.items():
            if value != others[option]:
                if option == "listing":
                    return "the sources hold other files now"
                if option == "tables":
                    return "the table of split.group_by or split.column says something else now"
                return f"{option} is {value!r} there and {others[option]!r} here"
        return None


@dataclass(frozen=True)
class Card:
    """What ``dataset.json`` says."""

    format: int
    overlay_version: str
    fingerprint: str
    """see `fingerprint`"""
    classes: list[str]
    """sorted"""
    counts: dict[str, dict[str, int]]
    """class -> split -> images"""
    groups: int
    """groups of near-duplicates joined with the user's own, a single image among them"""
    largest_group: int
    """images"""
    near_duplicates: int
    """pairs in ``duplicates.parquet``, the identical ones among them"""
    all_pairs: bool
    """whether these are all; where there are millions, only those that link the groups are listed"""
    identical: int
    """pairs with equal pixels"""
    conflicts: int
    """pairs with different labels"""
    deviation: dict[str, float]
    """split, or fold -> largest difference, in points, of a class's share there from its share of the whole"""
    leaks: dict[str, int]
    """pairs, identical pairs and groups that a split of the user's own tears apart"""
    rejected: int
    parts: int
    request: Request
    versions: dict[str, str]
    """the packages that read, drew and wrote the images"""


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


def read_card(path: str | Path | Place) -> Card:
    """Read the card of a dataset.

    Raises:
        RequestError: as `open_dataset`, except that no other file is looked at.
    """
    file = Place.of(path) / CARD
    if not Place.of(path).exists():
        raise RequestError(f"dataset {path} is not there; make it with `overlay prepare SOURCE --out {path}`")
    if not is_dataset(path):
        raise RequestError(f"{path} is not a prepared dataset (it has no {CARD}); make one with `overlay prepare`")
    try:
        values = json.loads(file.read_bytes())
        newer = values["format"] > FORMAT
        written_by = values["overlay_version"]
        if not newer:
            request = request_from(values["request"])
            return Card(**{field.name: values[field.name] for field in fields(Card)} | {"request": request})
    except (ValueError, KeyError, TypeError) as error:
        raise RequestError(f"{file} is damaged, or no card of a dataset of ours; name another folder") from error
    raise RequestError(
        f"dataset {path} was written in format {values['format']} by overlay {written_by}; this is overlay "
        f"{version('overlay')}, which reads up to format {FORMAT}: install overlay {written_by} or newer"
    )


def write_card(folder: Path | Place, card: Card) -> None:
    """Write ``dataset.json``, which makes the folder a dataset."""
    with write_atomically(folder / CARD) as temporary:
        temporary.write_text(json.dumps(asdict(card), indent=2) + "\n")


def request_from(fields_of_request: dict[str, Any]) -> Request:
    """Build a request from its JSON."""
    values = dict(fields_of_request)
    values["overlay"] = OverlayStyle(**values["overlay"])
    values["split"] = Split(**values["split"])
    values["duplicates"] = Duplicates(**values["duplicates"])
    return Request(**values)


def package_versions() -> dict[str, str]:
    """Return the versions of the packages on which a dataset's bytes depend."""
    packages = ("overlay", "pillow", "numpy", "imagehash", "scikit-image", "pyarrow", "ray")
    return {name: version(name) for name in packages}


def part_path(folder: _Folder, part: int) -> _Folder:
    """Return the path of one Parquet file of a dataset."""
    return folder / "data" / f"part-{part:05d}.parquet"


def fingerprint(rows: Iterable[tuple[str, str, str, str, str]]) -> str:
    """Return the sha256 of a dataset's contents, from (id, label, split, group, sha256 of the image) of each row.

    The image's sha256 is that of the stored bytes where they are the source's own, and of height, width and RGB pixels
    where an overlay was drawn, since two versions of a PNG encoder may write the same pixels differently. So it depends
    on what a model sees and how it was divided, and not on the machine, the order of listing or the size of the shards.
    """
    digest = hashlib.sha256()
    for row in sorted(rows):
        digest.update(json.dumps(row).encode() + b"\n")
    return digest.hexdigest()


@contextmanager
def write_rows(path: Path | Place, schema: pa.Schema) -> Iterator["RowWriter"]:
    """Write a Parquet file of images atomically, row by row, holding one row group in memory.

    Row groups are small, so that a reader streams and seeks; the images' bytes, compressed already, are stored as they
    are.
    """
    small = [name for name in schema.names if name != "image"]
    with (
        write_atomically(path) as temporary,
        pq.ParquetWriter(
            temporary,
            schema,
            compression={"image.bytes": "NONE", "image.path": "ZSTD"} | dict.fromkeys(small, "ZSTD"),
            use_dictionary=small,
            write_statistics=small,
        ) as writer,
    ):
        rows = RowWriter(writer, schema)
        yield rows
        rows.flush()


class RowWriter:
    """Gathers rows into row groups."""

    def __init__(self, writer: pq.ParquetWriter, schema: pa.Schema) -> None:
        self._writer, self._schema = writer, schema
        self._rows: list[dict[str, Any]] = []
        self._bytes = 0

    def write(self, row: dict[str, Any]) -> None:
        """Add a row; columns that it lacks are null."""
        self._rows.append(row)
        self._bytes += len(row["image"]["bytes"]) if row["image"] else 0
        if len(self._rows) >= ROW_GROUP_ROWS or self._bytes >= ROW_GROUP_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what was gathered as a row group."""
        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
        self._rows, self._bytes = [], 0
