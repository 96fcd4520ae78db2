"""Options of `overlay demo`."""

from dataclasses import dataclass

from overlay.config.common import LocalPlace, check


@dataclass(frozen=True)
class Demo:
    """Generate a small phantom dataset, then prepare, train, evaluate and predict on it."""

    out: LocalPlace = "overlay-demo"
    """folder of the demo, on a disk: phantoms, dataset, run and predictions"""
    seed: int = 0
    """random seed of the phantoms and of the training"""

    def __post_init__(self) -> None:
        check(0 <= self.seed < 2**32, f"seed is {self.seed}; it must be at least 0 and below 2**32")
