"""Options of the calibration at the end of `overlay train`."""

from collections.abc import Sequence
from dataclasses import dataclass

from overlay.config.common import check

USUAL_POSITIVE = "malignant"
"""the positive class of a dataset that has it, where no other one is given"""


@dataclass(frozen=True)
class Calibration:
    """Calibration on the validation split: temperature, operating point of a positive class, uncertain predictions."""

    positive: str | None = None
    """positive class, for the column flag of predictions and for sensitivity and specificity; default is malignant
    where there is such a class, else none"""
    sensitivity: float = 0.95
    """validation sensitivity that the threshold of the positive class reaches at least"""
    uncertain: float = 0.1
    """share of the validation images, those with the least confidence, whose predictions would be called uncertain; 0
    for none"""

    def __post_init__(self) -> None:
        right = 0 < self.sensitivity <= 1
        check(right, f"calibration.sensitivity is {self.sensitivity}; it must be above 0 and at most 1")
        right = 0 <= self.uncertain < 1
        check(right, f"calibration.uncertain is {self.uncertain}; it must be at least 0 and below 1")

    def positive_class(self, classes: Sequence[str]) -> str | None:
        """Return the positive class among the classes of a dataset; None where there is none.

        Raises:
            RequestError: ``positive`` is not one of them.
        """
        known = self.positive is None or self.positive in classes
        check(known, f"calibration.positive is {self.positive!r}; choose one of the classes {', '.join(classes)}")
        return self.positive or (USUAL_POSITIVE if USUAL_POSITIVE in classes else None)
