"""Status board of a training run: the actor through which workers report progress and receive a stop request."""

from dataclasses import dataclass, replace

from overlay.training.history import Epoch


@dataclass(frozen=True)
class TrainingStatus:
    """Progress of a run, as its workers last reported it."""

    step: int = 0
    """steps of the run that are done"""
    loss: float | None = None
    """mean loss of the epoch so far"""
    workers: int = 0
    epochs: tuple[Epoch, ...] = ()
    """history of the newest checkpoint"""
    memory_bytes: int = 0
    """peak memory of any worker"""
    saved_step: int = 0
    """step after which the run was last saved for the preemption of a node"""
    fatal_error: str | None = None
    """error that restarted workers would meet again"""


class StatusBoard:
    """Actor that holds the status of a run: written by the workers, read by the driver."""

    def __init__(self) -> None:
        self._status = TrainingStatus()
        self._stop_requested = False

    def post_progress(self, step: int, loss: float | None, workers: int) -> bool:
        """Record the progress; return whether a stop was requested."""
        self._status = replace(self._status, step=step, loss=loss, workers=workers)
        return self._stop_requested

    def post_epochs(self, epochs: list[Epoch]) -> None:
        """Record the history that a checkpoint holds."""
        self._status = replace(self._status, epochs=tuple(epochs))

    def post_memory(self, peak: int) -> None:
        """Record a worker's peak memory in bytes."""
        self._status = replace(self._status, memory_bytes=max(peak, self._status.memory_bytes))

    def post_saved_step(self, step: int) -> None:
        """Record that a checkpoint after ``step`` is on the disk, for the preemption of a node."""
        self._status = replace(self._status, saved_step=step)

    def abort(self, reason: str) -> None:
        """Record an error that restarted workers would meet again: they end at once."""
        self._status = replace(self._status, fatal_error=reason)

    def request_stop(self) -> None:
        """Ask the workers to save and stop after their next step."""
        self._stop_requested = True

    def read(self) -> TrainingStatus:
        """Return the status."""
        return self._status
