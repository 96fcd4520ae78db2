"""Failures of training workers: which of them a restart can cure, and which end the run at once."""

from ray.exceptions import OutOfDiskError, RayError, RayTaskError

from overlay.errors import WorkError, one_line
from overlay.storage.disk_space import is_disk_full
from pipelines.runtime.ray_errors import explain_ray_error

SAME_FAILURES = 3
"""times that a worker may fail at the same step with the same words before the run ends"""

_OF_THE_CODE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    NameError,
    NotImplementedError,
    TypeError,
    ValueError,
)


def fatal_reason(error: BaseException) -> str | None:
    """Return why a restarted worker would fail again, in one line; None where it may not, as after a lost process."""
    cause = error.cause if isinstance(error, RayTaskError) else error
    if isinstance(cause, WorkError) or is_disk_full(cause):
        return one_line(cause)
    if isinstance(cause, OutOfDiskError):
        return explain_ray_error(cause)
    if isinstance(cause, RayError):
        return None
    if isinstance(cause, _OF_THE_CODE):
        return f"an error of Overlay itself in a training worker, {type(cause).__name__}: {one_line(cause)}"
    return None


class FailureCount:
    """Counts failures of each worker that repeat at the same step."""

    def __init__(self) -> None:
        self._last: dict[int, tuple[int, str]] = {}
        self._times: dict[int, int] = {}

    def add(self, rank: int, step: int, reason: str) -> bool:
        """Count a failure; return whether it came as often as `SAME_FAILURES` without any progress between."""
        if self._last.get(rank) != (step, reason):
            self._last[rank], self._times[rank] = (step, reason), 0
        self._times[rank] += 1
        return self._times[rank] >= SAME_FAILURES
