"""Dataset card, ``dataset.json``: request, contents, split, near-duplicates and fingerprint of a prepared dataset."""

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from overlay import __version__
from overlay.config import Duplicates, Encoding, Images, Labels, Layout, Masks, OverlayStyle, Split, dotted
from overlay.duplicates.near_duplicates import Leakage, NearDuplicates
from overlay.errors import RequestError
from overlay.storage.atomic import write_atomically
from overlay.storage.path import StoragePath
from overlay.version import code_fingerprint

DATASET_FORMAT = 3
"""version of the dataset format that this code writes, and the newest that it reads"""
CARD_FILE = "dataset.json"
_BATCH = 10_000


@dataclass(frozen=True)
class DatasetRequest:
    """Sources and options of a prepared dataset; the same request gives the same dataset."""

    sources: list[str]
    overlay: OverlayStyle
    split: Split
    max_pixels: int
    shard_rows: int
    listing: str
    """SHA-256 of the ids, masks, sizes and times of modification of the inputs"""
    duplicates: Duplicates = field(default_factory=Duplicates)
    tables: str = ""
    """SHA-256 of the values from the tables of labels.column, split.group_by and split.column; empty without a table"""
    labels: Labels = field(default_factory=Labels)
    images: Images = field(default_factory=Images)
    masks: Masks = field(default_factory=Masks)
    layout: Layout = field(default_factory=Layout)
    encoding: Encoding = "png"
    max_side: int | None = None

    def difference(self, other: "DatasetRequest") -> str | None:
        """Return the first difference to another request as text, by the names of options; None where they are equal.

        The values of this request are called "there", those of the other "here".
        """
        mine, others = dotted(asdict(self)), dotted(asdict(other))
        for option in mine | others:  # a map of labels may have other keys
            there, here = mine.get(option), others.get(option)
            if there != here:
                if option == "listing":
                    return "the sources hold other files now, or files that have changed"
                if option == "tables":
                    return "the table of labels.column, split.group_by or split.column says something else now"
                return f"{option} is {there!r} there and {here!r} here"
        return None


@dataclass(frozen=True)
class DatasetContents:
    """Fingerprint and image counts of a finished dataset."""

    fingerprint: str
    """see `fingerprint`"""
    counts: dict[str, dict[str, int]]
    """class -> split -> number of images"""
    rejected: int
    """number of rows of ``rejected.parquet``"""
    parts: int
    """Parquet files of ``data/``"""
    encodings: dict[str, int] = field(default_factory=dict)
    """format of the stored images, such as png or jpeg -> number of images"""
    masks: dict[str, dict[str, int]] = field(default_factory=dict)
    """class -> the fields of `overlay.preparation.mask_checks.MaskCounts`"""
    unreadable: int = 0
    """number of rejected inputs that could not be read"""


@dataclass(frozen=True)
class SideGroups:
    """Groups of one split, or of one fold, and the images in them."""

    groups: int
    mean: float
    """images in a group"""
    median: float
    largest: int


@dataclass(frozen=True)
class SplitSummary:
    """Groups of a dataset, deviation of class shares, and leakage of its split."""

    groups: int
    largest_group: int
    """images"""
    deviation: dict[str, float]
    """split, or fold -> largest deviation of a class's share from its share of the whole, in percentage points"""
    group_sizes: dict[str, SideGroups]
    """split, or fold -> sizes of its groups"""
    leaks: Leakage
    """leakage of a split that was given; zero for a group split of our own"""
    origin: str = ""
    """where a given split is from: split.column or the sources' folders; empty for one of our own"""


@dataclass(frozen=True)
class DatasetCard:
    """Contents of ``dataset.json``."""

    format: int
    overlay_version: str
    code: str
    """fingerprint of the code that wrote the dataset, see `overlay.version`"""
    fingerprint: str
    """see `fingerprint`"""
    classes: list[str]
    """sorted"""
    counts: dict[str, dict[str, int]]
    """class -> split -> number of images"""
    groups: int
    """groups of near-duplicates joined with the user's own groups, including single images"""
    largest_group: int
    """images"""
    near_duplicates: int
    """pairs in ``duplicates.parquet``, including identical ones"""
    all_pairs: bool
    """whether these are all pairs; beyond 5 million, only a spanning forest of the groups is listed"""
    identical: int
    """pairs with equal pixels"""
    conflicts: int
    """pairs with different labels"""
    deviation: dict[str, float]
    """split, or fold -> largest deviation of a class's share from its share of the whole, in percentage points"""
    group_sizes: dict[str, dict[str, float]]
    """split, or fold -> the fields of `SideGroups`"""
    leaks: dict[str, int]
    """pairs, identical pairs and groups on more than one side of a given split"""
    rejected: int
    parts: int
    request: DatasetRequest
    versions: dict[str, str]
    """see `package_versions`"""
    masks: dict[str, dict[str, int]] = field(default_factory=dict)
    """class -> number of masks, and of those that are empty, look inverted or cover more than 90 % of the image"""
    split_origin: str = ""
    """where a given split is from: split.column or the sources' folders; empty for one of our own"""
    encodings: dict[str, int] = field(default_factory=dict)
    """format of the stored images, such as png or jpeg -> number of images"""
    unreadable: int = 0
    """number of rejected inputs that could not be read, as --max_unreadable allowed"""

    @classmethod
    def create(
        cls, request: DatasetRequest, contents: DatasetContents, split: SplitSummary, duplicates: NearDuplicates
    ) -> "DatasetCard":
        """Create the card of a dataset that this process prepared."""
        return cls(
            format=DATASET_FORMAT,
            overlay_version=__version__,
            code=code_fingerprint(),
            fingerprint=contents.fingerprint,
            classes=sorted(contents.counts),
            counts=contents.counts,
            groups=split.groups,
            largest_group=split.largest_group,
            near_duplicates=len(duplicates.pairs),
            all_pairs=duplicates.pairs.complete,
            identical=int(duplicates.identical.sum()),
            conflicts=int(duplicates.conflicts.sum()),
            deviation={side: round(points, 3) for side, points in split.deviation.items()},
            group_sizes={side: asdict(sizes) for side, sizes in split.group_sizes.items()},
            leaks=asdict(split.leaks),
            rejected=contents.rejected,
            parts=contents.parts,
            request=request,
            versions=package_versions(),
            masks=contents.masks,
            split_origin=split.origin,
            encodings=contents.encodings,
            unreadable=contents.unreadable,
        )


def read_card(path: str | Path | StoragePath) -> DatasetCard:
    """Read the card of a prepared dataset, on a disk or in a bucket.

    Raises:
        RequestError: there is no such folder, it has no card, the card is damaged, or a newer version wrote it.
        OSError: the card can't be read.
    """
    file = StoragePath.of(path) / CARD_FILE
    if not StoragePath.of(path).exists():
        raise RequestError(f"dataset {path} is not there; make it with `overlay prepare SOURCE --out {path}`")
    if not file.is_file():
        raise RequestError(f"{path} is not a prepared dataset (it has no {CARD_FILE}); make one with `overlay prepare`")
    try:
        values = json.loads(file.read_bytes())
        newer = values["format"] > DATASET_FORMAT
        written_by = values["overlay_version"]
        if not newer:
            missing = {"masks": {}, "split_origin": "", "encodings": {}, "unreadable": 0}
            values = missing | values | {"request": parse_request(values["request"])}
            return DatasetCard(**{field.name: values[field.name] for field in fields(DatasetCard)})
    except (ValueError, KeyError, TypeError) as error:
        raise RequestError(f"{file} is damaged, or no card of a dataset of ours; name another folder") from error
    raise RequestError(
        f"dataset {path} was written in format {values['format']} by overlay {written_by}; this is overlay "
        f"{__version__}, which reads up to format {DATASET_FORMAT}: install overlay {written_by} or newer"
    )


def write_card(folder: Path | StoragePath, card: DatasetCard) -> None:
    """Write ``dataset.json`` atomically, which marks the dataset as complete.

    Raises:
        OSError: the file can't be written.
    """
    with write_atomically(folder / CARD_FILE) as temporary:
        temporary.write_text(json.dumps(asdict(card), indent=2) + "\n")


def parse_request(fields_of_request: dict[str, Any]) -> DatasetRequest:
    """Build a request from its JSON object.

    Raises:
        KeyError, TypeError, ValueError: a field is missing, unknown or out of range.
    """
    values = dict(fields_of_request)
    values["overlay"] = OverlayStyle(**values["overlay"])
    values["split"] = Split(**values["split"])
    values["duplicates"] = Duplicates(**values["duplicates"])
    values["labels"] = Labels(**values["labels"])
    values["images"] = Images(**values["images"])
    values["masks"] = Masks(**values.get("masks", {}))
    values["layout"] = Layout(**values.get("layout", {}))
    return DatasetRequest(**values)


def package_versions() -> dict[str, str]:
    """Return the versions of the packages on which a dataset's bytes depend."""
    packages = ("pillow", "numpy", "imagehash", "isal", "scikit-image", "pyarrow", "ray")
    return {"overlay": __version__} | {name: version(name) for name in packages}


def fingerprint(table: pa.Table) -> str:
    """Return the SHA-256 of a dataset's contents, from the columns id, label, side, group and sha256 of each row.

    ``side`` is the split, or "fold 3". The image's sha256 is that of the stored bytes where they are the source's own,
    and of height, width and RGB pixels where an overlay was drawn, since two versions of a PNG encoder may write the
    same pixels differently. So the fingerprint depends on the images that a model sees and on their split, not on the
    machine, the order of listing or the size of the shards.
    """
    digest = hashlib.sha256()
    columns = table.select(["id", "label", "side", "group", "sha256"])
    order = pc.sort_indices(table["id"])
    for start in range(0, len(order), _BATCH):  # a sorted copy of the whole would be as large again
        batch = columns.take(order.slice(start, _BATCH))
        for *words, image in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            digest.update(json.dumps([*words, image.hex()]).encode() + b"\n")
    return digest.hexdigest()
