"""Options of `overlay demo`."""

from dataclasses import dataclass

from overlay.config.common import LocalPlace, LogFormat, check


@dataclass(frozen=True)
class Demo:
    """Generate a small phantom dataset, then prepare, train, evaluate and predict on it."""

    out: LocalPlace = "overlay-demo"
    """folder of the demo, on a disk: phantoms, dataset, run and predictions"""
    log_format: LogFormat = "text"
    """text, or json: each printed line, and each line of overlay.log in the output folder, is a JSON object"""
    seed: int = 0
    """random seed of the phantoms and of the training"""

    def __post_init__(self) -> None:
        check(0 <= self.seed < 2**32, f"seed is {self.seed}; it must be at least 0 and below 2**32")
