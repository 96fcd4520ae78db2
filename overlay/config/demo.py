"""The options of `overlay demo` and `overlay submit`."""

from dataclasses import dataclass

from overlay.config.common import check


@dataclass(frozen=True)
class Demo:
    """Make a small phantom set, then prepare, train, evaluate and predict on it."""

    out: str = "overlay-demo"
    """folder for everything the demo makes"""
    seed: int = 0
    """the same seed makes the same phantoms"""

    def __post_init__(self) -> None:
        check(0 <= self.seed < 2**32, f"seed is {self.seed}; it must be at least 0 and below 2**32")
