"""Preemption of a training run: saving and stopping on SIGTERM at the driver, or when a node is about to be drained.

All workers have to come to the same decision at the same step, or those that continue would deadlock in a collective
operation that the others never join.
"""

from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal

import ray
import ray.train
import ray.train.collective
from ray.actor import ActorHandle
from ray.exceptions import RayError

from overlay.training.sampler import Worker
from pipelines.training.status_board import StatusBoard

ASK_EVERY = 8
"""steps between two questions; with several workers each costs a round trip to an actor"""

Decision = Literal["continue", "save", "stop"]


@dataclass
class Interruptions:
    """Requests to save or to stop, as one worker learns of them."""

    board: ActorHandle[StatusBoard]
    worker: Worker
    _saved_for: object = None
    _pending: ray.ObjectRef[bool] | None = field(default=None, repr=False)
    _stop_requested: bool = False

    def set_pending(self, answer: ray.ObjectRef[bool]) -> None:
        """Keep the board's answer to a post, which arrives later: whether a stop was requested."""
        self._pending = answer

    def decide(self, step: int) -> Decision:
        """Return what to do after ``step`` steps, the same for all workers; "save" comes once for each preemption."""
        if self._pending is not None and ray.wait([self._pending], timeout=0)[0]:
            with suppress(RayError):  # the board was killed; Ray restarts it, and the next post is answered
                self._stop_requested = bool(ray.get(self._pending))
            self._pending = None
        if self.worker.world_size == 1 and self._stop_requested:
            return "stop"
        if step % ASK_EVERY:
            return "continue"
        if self.worker.world_size > 1 and ray.train.collective.broadcast_from_rank_zero(self._stop_requested):
            return "stop"
        preemption = ray.train.get_preemption_info()
        if preemption is None or preemption == self._saved_for:
            return "continue"
        self._saved_for = preemption
        return "save"
