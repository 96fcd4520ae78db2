"""When a training run must save and perhaps leave: SIGTERM at the driver, or a node that is about to go.

All workers have to come to the same decision at the same step, or those that go on would wait for ever for the others.
"""

from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal

import ray
import ray.train
import ray.train.collective
from ray.actor import ActorHandle
from ray.exceptions import RayError

from pipelines.training.monitor import StatusBoard

ASK_EVERY = 8
"""steps; with several workers asking costs a message to an actor and back"""

Decision = Literal["go on", "save", "leave"]


@dataclass
class Interruptions:
    """What a worker asks after each step."""

    board: ActorHandle[StatusBoard]
    rank: int
    world_size: int
    _saved_for: object = None
    _answer: ray.ObjectRef[bool] | None = field(default=None, repr=False)
    _leave: bool = False

    def told(self, answer: ray.ObjectRef[bool]) -> None:
        """Take the board's answer to a post, which comes later: whether the run is to stop."""
        self._answer = answer

    def after(self, step: int) -> Decision:
        """Say what to do now; the same for all workers. To save for a node that goes is asked for once."""
        if self._answer is not None and ray.wait([self._answer], timeout=0)[0]:
            with suppress(RayError):  # the board was killed; it comes again, and the next post is answered
                self._leave = bool(ray.get(self._answer))
            self._answer = None
        if self.world_size == 1 and self._leave:
            return "leave"
        if step % ASK_EVERY:
            return "go on"
        if self.world_size > 1 and ray.train.collective.broadcast_from_rank_zero(self._leave):
            return "leave"
        going = ray.train.get_preemption_info()
        if going is None or going == self._saved_for:
            return "go on"
        self._saved_for = going
        return "save"
