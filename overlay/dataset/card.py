"""The card of a prepared dataset, ``dataset.json``: what it was made from, what it holds, and by what it is known."""

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa

from overlay import __version__
from overlay.config import Duplicates, OverlayStyle, Split, dotted
from overlay.duplicates.near_duplicates import Leakage, NearDuplicates
from overlay.errors import RequestError
from overlay.storage.atomic import write_atomically
from overlay.storage.path import StoragePath
from overlay.version import code_fingerprint

DATASET_FORMAT = 2
"""format of the dataset that this version writes, and the newest that it reads"""
CARD_FILE = "dataset.json"
_BATCH = 10_000


@dataclass(frozen=True)
class DatasetRequest:
    """What a dataset was made from, and how; the same request gives the same dataset."""

    sources: list[str]
    overlay: OverlayStyle
    split: Split
    max_pixels: int
    shard_rows: int
    listing: str
    """sha256 over the ids, masks, sizes and times of change of what the sources hold"""
    duplicates: Duplicates = field(default_factory=Duplicates)
    tables: str = ""
    """sha256 over what the tables of split.group_by and split.column said; empty without one"""

    def difference(self, other: "DatasetRequest") -> str | None:
        """Say how another request differs, in the words of the options; None where it doesn't."""
        mine, others = dotted(asdict(self)), dotted(asdict(other))
        for option, value in mine.items():
            if value != others[option]:
                if option == "listing":
                    return "the sources hold other files now, or files that have changed"
                if option == "tables":
                    return "the table of split.group_by or split.column says something else now"
                return f"{option} is {value!r} there and {others[option]!r} here"
        return None


@dataclass(frozen=True)
class DatasetContents:
    """Images of a finished dataset, in numbers."""

    fingerprint: str
    """see `fingerprint`"""
    counts: dict[str, dict[str, int]]
    """class -> split -> images"""
    rejected: int
    parts: int
    """Parquet files of ``data/``"""


@dataclass(frozen=True)
class SplitSummary:
    """Groups of a dataset, and how well its split keeps groups and class shares."""

    groups: int
    largest_group: int
    """images"""
    deviation: dict[str, float]
    """split, or fold -> largest difference, in points, of a class's share there from its share of the whole"""
    leaks: Leakage
    """what a split of the user's own leaks; nothing where the split is ours"""


@dataclass(frozen=True)
class DatasetCard:
    """What ``dataset.json`` says."""

    format: int
    overlay_version: str
    code: str
    """fingerprint of the code that ran, see `overlay.version`"""
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
    request: DatasetRequest
    versions: dict[str, str]
    """the packages that read, drew and wrote the images"""

    @classmethod
    def create(
        cls, request: DatasetRequest, contents: DatasetContents, split: SplitSummary, duplicates: NearDuplicates
    ) -> "DatasetCard":
        """Sum up a dataset that this process made."""
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
            leaks=asdict(split.leaks),
            rejected=contents.rejected,
            parts=contents.parts,
            request=request,
            versions=package_versions(),
        )


def read_card(path: str | Path | StoragePath) -> DatasetCard:
    """Read the card of a dataset.

    Raises:
        RequestError: as `open_dataset`, except that no other file is looked at.
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
            request = request_from(values["request"])
            return DatasetCard(
                **{field.name: values[field.name] for field in fields(DatasetCard)} | {"request": request}
            )
    except (ValueError, KeyError, TypeError) as error:
        raise RequestError(f"{file} is damaged, or no card of a dataset of ours; name another folder") from error
    raise RequestError(
        f"dataset {path} was written in format {values['format']} by overlay {written_by}; this is overlay "
        f"{__version__}, which reads up to format {DATASET_FORMAT}: install overlay {written_by} or newer"
    )


def write_card(folder: Path | StoragePath, card: DatasetCard) -> None:
    """Write ``dataset.json``, which makes the folder a dataset."""
    with write_atomically(folder / CARD_FILE) as temporary:
        temporary.write_text(json.dumps(asdict(card), indent=2) + "\n")


def request_from(fields_of_request: dict[str, Any]) -> DatasetRequest:
    """Build a request from its JSON."""
    values = dict(fields_of_request)
    values["overlay"] = OverlayStyle(**values["overlay"])
    values["split"] = Split(**values["split"])
    values["duplicates"] = Duplicates(**values["duplicates"])
    return DatasetRequest(**values)


def package_versions() -> dict[str, str]:
    """Return the versions of the packages on which a dataset's bytes depend."""
    packages = ("pillow", "numpy", "imagehash", "isal", "scikit-image", "pyarrow", "ray")
    return {"overlay": __version__} | {name: version(name) for name in packages}


def fingerprint(table: pa.Table) -> str:
    """Return the sha256 of a dataset's contents, from the columns id, label, side, group and sha256 of each row.

    ``side`` is the split, or "fold 3". The image's sha256 is that of the stored bytes where they are the source's own,
    and of height, width and RGB pixels where an overlay was drawn, since two versions of a PNG encoder may write the
    same pixels differently. So it depends on what a model sees and how it was divided, and not on the machine, the
    order of listing or the size of the shards.
    """
    digest = hashlib.sha256()
    for batch in table.select(["id", "label", "side", "group", "sha256"]).sort_by("id").to_batches(_BATCH):
        for *words, image in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            digest.update(json.dumps([*words, image.hex()]).encode() + b"\n")
    return digest.hexdigest()
