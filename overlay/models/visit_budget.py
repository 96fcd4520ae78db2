"""Bound on the entries that are looked at in a file: a short pickle can hold one object under many names, nested."""

from overlay.errors import UnsupportedModel

MOST_VISITS = 200_000
"""several times what the largest network of torchvision needs with an optimizer's state beside it"""


class VisitBudget:
    """Number of entries of one file that may still be looked at."""

    def __init__(self) -> None:
        self._left = MOST_VISITS

    def spend(self, entries: int) -> None:
        """Take entries off.

        Raises:
            UnsupportedModel: there are none left.
        """
        self._left -= entries
        if self._left < 0:
            raise UnsupportedModel(
                f"holds parts within parts, more than {MOST_VISITS} entries; give a file that torch.save made of "
                "model.state_dict()"
            )
