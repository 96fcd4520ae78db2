"""The options of `overlay evaluate`."""

from dataclasses import dataclass
from typing import Literal

from overlay.config.common import Device, Precision, check


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
