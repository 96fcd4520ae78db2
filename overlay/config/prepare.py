"""Options of `overlay prepare`."""

from dataclasses import dataclass, field
from typing import Literal

from overlay.config.cluster import ClusterOptions
from overlay.config.common import (
    MAX_PIXELS,
    SPLITS,
    Images,
    Limits,
    LogFormat,
    OverlayStyle,
    Place,
    SeveralPlaces,
    TableColumn,
    check,
    table_column,
)
from overlay.config.masks import Masks

Encoding = Literal["png", "webp"]
"""format in which `overlay prepare` stores images that it draws or reduces"""
TABLE_COLUMN = "FILE.csv:column (or .tsv, .txt, .parquet, .xlsx)"
"""how an option names a column of a table"""


@dataclass(frozen=True)
class Split:
    """Division of the images into train, val and test."""

    train: float = 0.7
    """share of the images for training"""
    val: float = 0.15
    """share of the images for validation, which early stopping uses"""
    test: float = 0.15
    """share of the images for the final test"""
    seed: int = 0
    """random seed of the split"""
    group_by: TableColumn | None = None
    """group split, such as by patient: images of one group stay in one split. A regular expression on the path, whose
    first group (or whole match) is the group's name; or FILE:column, a table (CSV, TSV, Parquet, XLSX) that also names
    the images by id, path, file name or stem"""
    ungrouped: Literal["refuse", "single"] = "refuse"
    """images for which group_by has no group: refuse them, or make each a group of its own"""
    folds: int | None = None
    """cross-validation folds of equal size instead of shares: fold 0 is test, fold 1 is val, and the rest is train"""
    only: Literal["test"] | None = None
    """put all images into the test split: a foreign set, which a finished model is evaluated on"""
    column: TableColumn | None = None
    """predefined split, with the values train, val and test: FILE:column, a table as for group_by"""

    def __post_init__(self) -> None:
        check(self.folds is None or self.folds >= 3, f"split.folds is {self.folds}; it must be at least 3")
        check(
            self.folds is None or self.column is None,
            f"split.folds is {self.folds} and split.column is {self.column}; give one of them",
        )
        check(
            self.only is None or (self.folds is None and self.column is None),
            f"split.only is {self.only}, so there is nothing to divide; leave split.folds and split.column away",
        )
        check(
            self.column is None or table_column(self.column) is not None,
            f"split.column is {self.column!r}; give it as {TABLE_COLUMN}",
        )
        for name in SPLITS:
            share = getattr(self, name)
            check(0 < share < 1, f"split.{name} is {share}; each share must lie between 0 and 1")
        total = self.train + self.val + self.test
        check(
            abs(total - 1) < 1e-6,
            f"split.train, split.val and split.test are {self.train}, {self.val} and {self.test}, which add up to "
            f"{total:g}; make them add up to 1",
        )


@dataclass(frozen=True)
class Labels:
    """Labels from a table instead of folders, and names for labels."""

    column: TableColumn | None = None
    """label of each image: FILE:column, a table (CSV, TSV, Parquet, XLSX) that also names the images by id, path, file
    name or stem; folders are no labels then"""
    map: dict[str, str] = field(default_factory=dict)
    """names for labels, such as {0: benign, 1: malignant}; labels without one keep their own"""

    def __post_init__(self) -> None:
        check(
            self.column is None or table_column(self.column) is not None,
            f"labels.column is {self.column!r}; give it as {TABLE_COLUMN}",
        )
        object.__setattr__(self, "map", {str(label): name for label, name in self.map.items()})  # YAML has numbers


@dataclass(frozen=True)
class Layout:
    """Layout of the sources, where their folders don't tell it."""

    class_level: int | None = None
    """level of the folders that are the classes: 1 for those at the top of the source, 2 for those in them, and so on;
    folders images are not counted"""

    def __post_init__(self) -> None:
        right = self.class_level is None or self.class_level >= 1
        check(right, f"layout.class_level is {self.class_level}; it must be at least 1")


@dataclass(frozen=True)
class Duplicates:
    """Detection of near-duplicates, and the treatment of those with different labels."""

    distance: int = 40
    """largest Hamming distance between perceptual hashes of near-duplicates, in bits of 256; unrelated images differ in
    128"""
    conflicts: Literal["keep", "drop", "stop"] = "keep"
    """near-duplicates with different labels: keep them together in one split, drop all, or stop and list them"""

    def __post_init__(self) -> None:
        check(0 <= self.distance <= 64, f"duplicates.distance is {self.distance}; it must be at least 0 and at most 64")


@dataclass(frozen=True)
class Prepare:
    """Convert images, with or without masks, to a prepared dataset: overlays, splits, Parquet shards."""

    sources: list[Place] = field(default_factory=list)
    """folders or archives with one subfolder a class, on a disk or in a bucket (s3://, gs://)"""
    out: Place = ""
    """folder of the prepared dataset, on a disk or in a bucket"""
    allow_root: SeveralPlaces | None = None
    """folders or buckets, separated by commas, in which tables may name files, beside their own folder or bucket"""
    overlay: OverlayStyle = field(default_factory=OverlayStyle)
    labels: Labels = field(default_factory=Labels)
    split: Split = field(default_factory=Split)
    duplicates: Duplicates = field(default_factory=Duplicates)
    images: Images = field(default_factory=Images)
    masks: Masks = field(default_factory=Masks)
    layout: Layout = field(default_factory=Layout)
    limits: Limits = field(default_factory=Limits)
    cluster: ClusterOptions = field(default_factory=ClusterOptions)
    max_pixels: int = MAX_PIXELS
    """largest image in pixels; a larger one is rejected before it is decoded"""
    max_unreadable: int = 0
    """most inputs that may be left out because they can't be read (network, disk, permission); with more of them the
    preparation fails, and the same command tries them again"""
    encoding: Encoding = "png"
    """format of the images that are not stored with their own bytes, such as those with a mask drawn on them; both are
    lossless and give equal pixels. webp takes about half of the bytes and is decoded faster, but encoded in many times
    the time; it needs overlay[webp]"""
    max_side: int | None = None
    """longer side, in pixels, to which larger images and their masks are reduced before the overlay is drawn; a model
    trained on them reduces its inputs alike. By default none is"""
    shard_rows: int = 256
    """images in one Parquet shard"""
    overwrite: bool = False
    """replace the dataset in --out"""
    log_format: LogFormat = "text"
    """text, or json: each printed line, and each line of overlay.log in the output folder, is a JSON object"""
    check: Place | None = None
    """prepare nothing, but check this dataset for leakage: a prepared one, or any Parquet with the columns image,
    label, split"""

    def __post_init__(self) -> None:
        if self.check is None:
            check(len(self.sources) > 0, "no source given; name at least one folder with a subfolder for each class")
            check(self.out != "", "not given: out; the order is: overlay prepare SOURCE... --out DATASET")
        else:
            alone = not self.sources and not self.out
            check(alone, f"check is {self.check}, which is all that is looked at; leave sources and --out away")
        check(
            self.labels.column is None or self.masks.colors is None,
            "labels.column and masks.colors both say what the classes are; give one of them",
        )
        check(self.max_pixels >= 1, f"max_pixels is {self.max_pixels}; it must be at least 1")
        check(self.max_unreadable >= 0, f"max_unreadable is {self.max_unreadable}; it must be at least 0")
        right = self.max_side is None or self.max_side >= 32
        check(right, f"max_side is {self.max_side}; it must be at least 32")
        check(self.shard_rows >= 1, f"shard_rows is {self.shard_rows}; it must be at least 1")
