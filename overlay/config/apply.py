"""The options of the verbs that use a model: `overlay evaluate` and `overlay predict`."""

from dataclasses import dataclass, field
from typing import Literal

from overlay.config.common import Device, Limits, Precision, check


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
