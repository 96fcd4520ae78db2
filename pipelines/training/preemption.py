"""Preemption of a training run: saving, and stopping where the driver asks for it or a node is about to be drained.

All workers have to come to the same decision at the same step, or those that continue would deadlock in a collective
operation that the others never join.
"""

import time
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
"""steps between two questions of a single worker whether its node is about to go"""
ASK_SECONDS = 1.0
"""between two questions of several workers, in whole steps: each costs a round trip to an actor"""
WAIT_SHARE = 0.05
"""share of a step's time that a worker waits for the board's answer: where steps are long, none is taken after it"""

Decision = Literal["continue", "save", "stop"]


@dataclass
class Interruptions:
    """Requests to save or to stop, as one worker learns of them."""

    board: ActorHandle[StatusBoard]
    worker: Worker
    _saved_for: object = None
    _pending: ray.ObjectRef[bool] | None = field(default=None, repr=False)
    _stop_requested: bool = False
    _next_question: int = 0
    """step after which several workers decide again; the same for all"""
    _decided: float = field(default_factory=time.monotonic)
    _asked: float = 0.0

    def set_pending(self, answer: ray.ObjectRef[bool]) -> None:
        """Keep the board's answer to a post, which arrives later: whether a stop was requested."""
        self._pending = answer

    def decide(self, step: int) -> Decision:
        """Return what to do after ``step`` steps, the same for all workers; "save" comes once for each preemption."""
        now = time.monotonic()
        step_seconds, self._decided = now - self._decided, now
        if self._pending is not None and ray.wait([self._pending], timeout=WAIT_SHARE * step_seconds)[0]:
            with suppress(RayError):  # the board was killed; Ray restarts it, and the next post is answered
                self._stop_requested = bool(ray.get(self._pending))
            self._pending = None
        if self.worker.world_size == 1:
            if self._stop_requested:
                return "stop"
            if step % ASK_EVERY:
                return "continue"
        else:
            if step < self._next_question:
                return "continue"
            following = step + max(1, int(ASK_SECONDS / max(step_seconds, 1e-3)))
            stop, self._next_question = ray.train.collective.broadcast_from_rank_zero((self._stop_requested, following))
            if stop:
                return "stop"
        preemption = ray.train.get_preemption_info()
        if preemption is None or preemption == self._saved_for:
            return "continue"
        self._saved_for = preemption
        return "save"

    def ask(self) -> bool:
        """Ask the board whether to stop, at most once a second; other workers may learn of it at another time."""
        if time.monotonic() - self._asked < ASK_SECONDS:
            return False
        self._asked = time.monotonic()
        with suppress(RayError):
            return bool(ray.get(self.board.is_stop_requested.remote(), timeout=ASK_SECONDS))
        return False
