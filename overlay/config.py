"""Every option of every verb: frozen, typed, checked as soon as it is built.

One class a verb; its sections are classes of their own, so that ``--augment.rotation 5`` on the command line is
``augment: {rotation: 5}`` in a file and ``Augment(rotation=5)`` in Python. Imports nothing heavy: the command line
reads this module before it knows whether torch or Ray is needed.
"""

import re
from dataclasses import dataclass, field
from typing import Any, Literal

from overlay.errors import RequestError

ResizeRule = Literal["squash", "pad", "crop"]
Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "bf16", "fp32"]
SPLITS = ("train", "val", "test")


def check(right: bool, message: str) -> None:
    """Refuse a configuration.

    Raises:
        RequestError: with ``message``, where ``right`` is false.
    """
    if not right:
        raise RequestError(message)


def table_column(text: str) -> tuple[str, str] | None:
    """Return the file and the column of FILE.csv:column or FILE.parquet:column; None where a text is neither."""
    written = re.fullmatch(r"(.+\.(?:csv|parquet)):([^:]+)", text, re.IGNORECASE)
    return (written[1], written[2]) if written else None


def dotted(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a nested configuration under the names that the command line uses, such as ``train.epochs``."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        flat |= dotted(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


@dataclass(frozen=True)
class OverlayStyle:
    """How a mask is drawn on its image."""

    style: Literal["fill", "contour", "none"] = "fill"
    """fill tints the lesion, contour draws its outline, none leaves the image as it is"""
    color: str = "#ff3b30"
    """colour of the lesion, as #rrggbb"""
    alpha: float = 0.35
    """opacity of a fill, above 0 and at most 1"""
    width: int = 3
    """width of a contour in pixels of the original image"""

    def __post_init__(self) -> None:
        hexadecimal = (
            len(self.color) == 7 and self.color[0] == "#" and set(self.color[1:]) <= set("0123456789abcdefABCDEF")
        )
        check(hexadecimal, f"overlay.color is {self.color!r}; give it as #rrggbb, for example #ff3b30")
        check(0 < self.alpha <= 1, f"overlay.alpha is {self.alpha}; it must be above 0 and at most 1")
        check(self.width >= 1, f"overlay.width is {self.width}; it must be at least 1")


@dataclass(frozen=True)
class Split:
    """How the images are divided into train, val and test."""

    train: float = 0.7
    """share of the images for training"""
    val: float = 0.15
    """share for validation, which decides when to stop"""
    test: float = 0.15
    """share for the test, looked at once"""
    seed: int = 0
    """the same seed gives the same split"""
    group_by: str | None = None
    """images of one group stay on one side: a regular expression on the path, whose first group (or whole match) is
    the name, or FILE.csv:column or FILE.parquet:column, a table that has the image's id or path beside it"""
    folds: int | None = None
    """number of equal folds instead of shares: fold 0 is test, fold 1 is val, and the rest is train"""
    column: str | None = None
    """a split of your own, with the values train, val and test: FILE.csv:column or FILE.parquet:column, as group_by"""

    def __post_init__(self) -> None:
        check(self.folds is None or self.folds >= 3, f"split.folds is {self.folds}; it must be at least 3")
        check(
            self.folds is None or self.column is None,
            f"split.folds is {self.folds} and split.column is {self.column}; give one of them",
        )
        check(
            self.column is None or table_column(self.column) is not None,
            f"split.column is {self.column!r}; give it as FILE.csv:column or FILE.parquet:column",
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
class Duplicates:
    """Which images are near-duplicates, and what becomes of those with different labels."""

    distance: int = 40
    """most bits, of 256, in which the perceptual hashes of near-duplicates differ; unrelated images differ in 128"""
    conflicts: Literal["keep", "drop", "stop"] = "keep"
    """near-duplicates with different labels: keep them together on one side, drop all of them, or stop and name them"""

    def __post_init__(self) -> None:
        check(0 <= self.distance <= 64, f"duplicates.distance is {self.distance}; it must be at least 0 and at most 64")


@dataclass(frozen=True)
class Limits:
    """How much of an archive is read, so that one made to do harm can't."""

    member_bytes: int = 256 * 2**20
    """largest image in an archive"""
    archive_bytes: int = 2**40
    """most that one archive may unpack to"""
    members: int = 5_000_000
    """most members of one archive"""
    ratio: float = 100.0
    """most bytes that an archive may unpack to for each of its own, beyond the first 16 MiB"""
    seconds: float = 3600.0
    """longest time that listing one archive may take"""

    def __post_init__(self) -> None:
        for name in ("member_bytes", "archive_bytes", "members", "ratio", "seconds"):
            check(getattr(self, name) > 0, f"limits.{name} is {getattr(self, name)}; it must be above 0")


@dataclass(frozen=True)
class Prepare:
    """Turn images, or images and masks, into a prepared dataset."""

    sources: list[str] = field(default_factory=list)
    """folders or archives with one subfolder a class, on a disk or in a bucket (s3://, gs://)"""
    out: str = ""
    """folder of the prepared dataset, on a disk or in a bucket"""
    overlay: OverlayStyle = field(default_factory=OverlayStyle)
    split: Split = field(default_factory=Split)
    duplicates: Duplicates = field(default_factory=Duplicates)
    limits: Limits = field(default_factory=Limits)
    max_pixels: int = 50_000_000
    """an image that would decode to more pixels than this is rejected before it is decoded"""
    shard_rows: int = 256
    """images in one Parquet shard"""
    overwrite: bool = False
    """replace what --out holds"""
    check: str | None = None
    """prepare nothing, but look for leaks in this dataset, ours or any Parquet with the columns image, label, split"""

    def __post_init__(self) -> None:
        if self.check is None:
            check(len(self.sources) > 0, "no source given; name at least one folder with a subfolder for each class")
            check(self.out != "", "not given: out; the order is: overlay prepare SOURCE... --out DATASET")
        else:
            alone = not self.sources and not self.out
            check(alone, f"check is {self.check}, which is all that is looked at; leave sources and --out away")
        check(self.max_pixels >= 1, f"max_pixels is {self.max_pixels}; it must be at least 1")
        check(self.shard_rows >= 1, f"shard_rows is {self.shard_rows}; it must be at least 1")


@dataclass(frozen=True)
class Input:
    """What the model sees of an image."""

    size: int = 224
    """side in pixels of the square that the model sees"""
    resize: ResizeRule = "squash"
    """squash to the square, pad to it with black, or crop its centre out of size * 256 / 224"""

    def __post_init__(self) -> None:
        check(32 <= self.size <= 2048, f"input.size is {self.size}; it must lie between 32 and 2048")


@dataclass(frozen=True)
class Augment:
    """Random changes to each training image, drawn anew in each epoch."""

    rotation: float = 15.0
    """degrees, to either side"""
    flip: float = 0.5
    """probability of a mirror image, left for right"""
    vertical_flip: float = 0.0
    """probability of upside down; off, since a shadow always lies below its lesion"""
    zoom: float = 0.15
    """largest change of scale: 0.15 draws from 0.85 to 1.15"""
    brightness: float = 0.1
    """largest relative change"""
    contrast: float = 0.1
    """largest relative change"""

    def __post_init__(self) -> None:
        check(0 <= self.rotation <= 180, f"augment.rotation is {self.rotation}; it must lie between 0 and 180 degrees")
        for name in ("flip", "vertical_flip"):
            check(
                0 <= getattr(self, name) <= 1,
                f"augment.{name} is {getattr(self, name)}; a probability lies between 0 and 1",
            )
        for name in ("zoom", "brightness", "contrast"):
            check(
                0 <= getattr(self, name) < 1,
                f"augment.{name} is {getattr(self, name)}; it must be at least 0 and below 1",
            )


@dataclass(frozen=True)
class Model:
    """The network that is fine-tuned."""

    arch: str = "resnet101"
    """a ResNet of torchvision by its name there"""
    weights: str = "imagenet"
    """imagenet, none, or the path or URL of a state_dict"""


@dataclass(frozen=True)
class Optimizer:
    """AdamW, with a linear warm-up and a cosine decay over the whole run."""

    lr: float = 3e-4
    """highest learning rate"""
    weight_decay: float = 0.01
    warmup: float = 0.1
    """share of the run's steps in which the learning rate rises from 0"""

    def __post_init__(self) -> None:
        check(self.lr > 0, f"optimizer.lr is {self.lr}; it must be above 0")
        check(self.weight_decay >= 0, f"optimizer.weight_decay is {self.weight_decay}; it must be at least 0")
        check(0 <= self.warmup < 1, f"optimizer.warmup is {self.warmup}; it must be at least 0 and below 1")


@dataclass(frozen=True)
class EarlyStopping:
    """When to stop before the last epoch, and which epoch's weights are the result."""

    metric: Literal["val_loss", "val_accuracy", "val_macro_f1"] = "val_loss"
    """what decides which epoch is best"""
    patience: int = 8
    """epochs without an improvement before the run stops"""
    min_delta: float = 0.0
    """a smaller improvement than this does not count"""

    def __post_init__(self) -> None:
        check(self.patience >= 1, f"early_stopping.patience is {self.patience}; it must be at least 1")
        check(self.min_delta >= 0, f"early_stopping.min_delta is {self.min_delta}; it must be at least 0")


@dataclass(frozen=True)
class Loop:
    """The training loop and where it runs."""

    epochs: int = 30
    batch_size: int = 32
    """images in one step, over all workers together"""
    workers: int = 1
    """processes that train together, one GPU each where there are GPUs"""
    device: Device = "auto"
    """auto takes cuda where the cluster has a GPU"""
    precision: Precision = "auto"
    """auto takes bf16 autocast where the hardware has it"""
    seed: int = 0
    """the same seed, data and machine give the same run"""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "workers"):
            check(getattr(self, name) >= 1, f"train.{name} is {getattr(self, name)}; it must be at least 1")
        check(0 <= self.seed < 2**32, f"train.seed is {self.seed}; it must be at least 0 and below 2**32")
        check(
            self.batch_size >= 2 * self.workers,
            f"train.batch_size is {self.batch_size} for {self.workers} workers; give each at least 2 images, since "
            "batch normalisation needs more than one",
        )


@dataclass(frozen=True)
class Tracking:
    """Weights & Biases. The key itself comes from WANDB_API_KEY or `wandb login`, never from an option."""

    mode: Literal["auto", "online", "offline", "disabled"] = "auto"
    """auto is online with a key and disabled without one"""
    project: str = "overlay"
    entity: str | None = None
    """team or user; W&B's own default where it is not given"""
    name: str | None = None
    """name of the run; the folder's name where it is not given"""


@dataclass(frozen=True)
class Train:
    """Fine-tune a pretrained network on a prepared dataset; the same command goes on where it stopped."""

    dataset: str
    """a prepared dataset, or a folder that `overlay prepare` would take"""
    out: str
    """folder of the run, and where it resumes from"""
    input: Input = field(default_factory=Input)
    augment: Augment = field(default_factory=Augment)
    model: Model = field(default_factory=Model)
    optimizer: Optimizer = field(default_factory=Optimizer)
    early_stopping: EarlyStopping = field(default_factory=EarlyStopping)
    train: Loop = field(default_factory=Loop)
    tracking: Tracking = field(default_factory=Tracking)


@dataclass(frozen=True)
class Evaluate:
    """Measure a model on one split of a prepared dataset: metrics, figures, report."""

    model: str
    """folder of a run, or a model file"""
    dataset: str
    """a prepared dataset"""
    out: str
    """folder of the evaluation"""
    split: Literal["train", "val", "test"] = "test"
    batch_size: int = 32
    device: Device = "auto"
    precision: Precision = "auto"

    def __post_init__(self) -> None:
        check(self.batch_size >= 1, f"batch_size is {self.batch_size}; it must be at least 1")


@dataclass(frozen=True)
class Predict:
    """Classify images in bulk: one row of Parquet for each input, whatever happened to it."""

    model: str
    """a model file, or the folder of a run"""
    inputs: list[str]
    """image files, archives, and folders with all their subfolders, on a disk or in a bucket (s3://, gs://)"""
    out: str
    """folder of the predictions, on a disk or in a bucket"""
    limits: Limits = field(default_factory=Limits)
    batch_size: int = 32
    device: Device = "auto"
    precision: Precision = "auto"
    actors: int | None = None
    """processes that hold the model; one for each GPU, or one on CPUs, where it is not given"""
    max_pixels: int = 50_000_000
    """an image that would decode to more pixels than this becomes an error row"""
    part_rows: int = 10_000
    """rows in one output file"""
    overwrite: bool = False
    """replace the predictions that --out holds"""

    def __post_init__(self) -> None:
        check(len(self.inputs) > 0, "no input given; name at least one image or folder")
        check(self.actors is None or self.actors >= 1, f"actors is {self.actors}; it must be at least 1")
        for name in ("batch_size", "max_pixels", "part_rows"):
            check(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}; it must be at least 1")


@dataclass(frozen=True)
class Demo:
    """Make a small phantom set, then prepare, train, evaluate and predict on it."""

    out: str = "overlay-demo"
    """folder for everything the demo makes"""
    seed: int = 0
    """the same seed makes the same phantoms"""

    def __post_init__(self) -> None:
        check(0 <= self.seed < 2**32, f"seed is {self.seed}; it must be at least 0 and below 2**32")


@dataclass(frozen=True)
class Submit:
    """Run a verb as a job on a Ray cluster and follow its log; Ctrl-C leaves the job running.

    Paths are the cluster's, so they must be absolute, in a folder that its nodes share. The token of a cluster that
    wants one comes from RAY_AUTH_MODE=token and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH.
    """

    address: str
    """the cluster's job server, for example http://head:8265"""
    job: list[str]
    """the verb and its arguments, after --; its paths are the cluster's, so they must be absolute and shared"""

    def __post_init__(self) -> None:
        check(len(self.job) > 0, "no job given; write the verb and its arguments after --")
