"""Options of `overlay evaluate`."""

from dataclasses import dataclass, field
from typing import Literal

from overlay.config.cluster import ClusterOptions
from overlay.config.common import (
    BatchSize,
    Device,
    EngineKind,
    Legacy,
    LogFormat,
    Place,
    Precision,
    TableColumn,
    check,
    check_batch_size,
    check_engine,
    table_column,
)


@dataclass(frozen=True)
class Evaluate:
    """Evaluate a model on one split of a prepared dataset: metrics, figures, report."""

    model: Place
    """folder of a run, or a model file, on a disk or in a bucket (s3://, gs://)"""
    dataset: Place
    """a prepared dataset"""
    out: Place
    """folder of the evaluation, on a disk or in a bucket"""
    legacy: Legacy = field(default_factory=Legacy)
    cluster: ClusterOptions = field(default_factory=ClusterOptions)
    split: Literal["train", "val", "test"] = "test"
    """split that is evaluated"""
    allow_seen: bool = False
    """evaluate on test images that the model has seen in training or validation, too; the report begins with their
    number"""
    batch_size: BatchSize = "auto"
    """images in one forward pass; auto is 32 on CPUs, and on a GPU the number that is fastest there, measured at the
    start. Where a GPU's memory is too small, it is halved"""
    device: Device = "auto"
    """auto is cuda where the cluster has a GPU"""
    engine: EngineKind = "auto"
    """inference engine: torch, torch.compile, or OpenVINO; auto is OpenVINO on CPUs where it is installed"""
    precision: Precision = "auto"
    """auto is bf16 where the hardware has it; int8, which OpenVINO has, is calibrated on training images"""
    flips: bool = False
    """test-time augmentation: average the probabilities of an image and of its horizontal flip"""
    log_format: LogFormat = "text"
    """text, or json: each printed line, and each line of overlay.log in the output folder, is a JSON object"""
    subgroups: TableColumn | None = None
    """columns of a table to report results by, as FILE.csv:age,device (or tsv, xlsx, parquet); another column has
    the image's path or name"""

    def __post_init__(self) -> None:
        check_engine(self.engine, self.precision)
        check_batch_size(self.batch_size)
        check(
            self.subgroups is None or table_column(self.subgroups) is not None,
            f"subgroups is {self.subgroups!r}; give it as FILE.csv:column",
        )
