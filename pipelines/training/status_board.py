"""Status board of a training run: the actor through which workers get the images, report, and are asked to stop."""

import threading
from dataclasses import dataclass, replace
from typing import Any

import ray

from overlay.training.history import Epoch
from overlay.training.sampler import Worker
from pipelines.training.failures import SAME_FAILURES, FailureCount

IMAGES_GROUP = "images"
"""concurrency group of the call that waits for the images, beside which the others are answered"""
RunImageRefs = tuple[ray.ObjectRef[Any], ray.ObjectRef[Any]]
"""references of the training and the validation images, see `pipelines.training.setup.RunImages`"""


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
    details: str = ""
    """its traceback"""
    images_given: bool = False
    """whether the images are stored, so that workers can take steps"""


class StatusBoard:
    """Actor that holds the status of a run: written by the workers, read by the driver."""

    def __init__(self) -> None:
        self._status = TrainingStatus()
        self._stop_requested = False
        self._failures = FailureCount()
        self._images: RunImageRefs | None = None
        self._images_decided = threading.Event()

    def give_images(self, images: RunImageRefs) -> None:
        """Answer `await_images`."""
        self._images = images
        self._status = replace(self._status, images_given=True)
        self._images_decided.set()

    def await_images(self) -> RunImageRefs | None:
        """Return the images once they are given; None where the run is aborted before."""
        self._images_decided.wait()
        return self._images

    def post_progress(self, step: int, loss: float | None, workers: int) -> bool:
        """Record the progress; return whether to stop."""
        self._status = replace(self._status, step=step, loss=loss, workers=workers)
        return self.is_stop_requested()

    def post_epochs(self, epochs: list[Epoch]) -> None:
        """Record the history that a checkpoint holds."""
        self._status = replace(self._status, epochs=tuple(epochs))

    def post_memory(self, peak: int) -> None:
        """Record a worker's peak memory in bytes."""
        self._status = replace(self._status, memory_bytes=max(peak, self._status.memory_bytes))

    def post_saved_step(self, step: int) -> None:
        """Record that a checkpoint after ``step`` is on the disk, for the preemption of a node."""
        self._status = replace(self._status, saved_step=step)

    def abort(self, reason: str, details: str = "") -> None:
        """Record an error that restarted workers would meet again: they end at once. ``details``: its traceback."""
        self._status = replace(self._status, fatal_error=reason, details=details)
        self._images_decided.set()

    def post_failure(self, worker: Worker, step: int, reason: str, details: str) -> None:
        """Record a failure after ``step`` steps, which ends the run where it has come several times."""
        if self._failures.add(worker.rank, step, reason):
            self.abort(f"{reason} ({SAME_FAILURES} times after step {step})", details)

    def request_stop(self) -> None:
        """Ask the workers to save and stop after their step, or in the midst of a validation."""
        self._stop_requested = True

    def is_stop_requested(self) -> bool:
        """Return whether a stop was requested, or an error ends the run."""
        return self._stop_requested or self._status.fatal_error is not None

    def read(self) -> TrainingStatus:
        """Return the status."""
        return self._status
