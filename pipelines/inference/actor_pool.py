"""Pool of the processes that hold a model: its size for the nodes that are there, and its watch while nodes change."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

from ray.data import DataContext
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.data.exceptions import ExecutionTimeoutError

from cluster.nodes import NodeSize, working_nodes
from overlay.config import InferenceOptions
from overlay.errors import RequestError
from pipelines.runtime.node_shares import actor_slots, leaves_room, scoring_share, task_share

LOOK_SECONDS = 1.0
"""between two looks at the cluster's nodes"""
SETTLE_SECONDS = 10.0
"""for which nodes that came must be there before a larger pool starts; an autoscaler adds them one after the other"""


class NodesChanged(ExecutionTimeoutError):
    """End of an execution, since another number of processes that hold the model fits the nodes by now.

    Ray Data prints a trace of an error that is neither a time-out nor one of a task.
    """


@dataclass(frozen=True)
class ActorPool:
    """Processes that hold the model, and the CPUs of each and of the tasks that feed them."""

    actors: int
    """0 where the nodes have no room for one"""
    cpus: float
    per_node: int
    """processes that share the cores of a node; Ray Data spreads them over the nodes"""
    task_cpus: float

    @classmethod
    def plan(cls, options: InferenceOptions, nodes: Sequence[NodeSize]) -> "ActorPool":
        """Plan a pool: one process for each GPU, or for each node on CPUs, fewer where there is no room for them."""
        own, task = options.cluster, task_share(nodes)
        gpus_each = own.gpus_per_worker if options.device == "cuda" else None
        asked = options.actors or (len(nodes) if gpus_each is None else actor_slots(nodes, 0, gpus_each))
        if gpus_each is not None or own.worker_cpus is not None:
            asked = min(asked, actor_slots(nodes, own.worker_cpus or 0, gpus_each))
        if own.worker_cpus is None:
            actors, cpus = asked, scoring_share(nodes, max(1, asked), gpus_each)
        else:
            numbers = range(asked, 0, -1)
            cpus = own.worker_cpus
            actors = next((number for number in numbers if leaves_room(nodes, number, cpus, gpus_each)), 0)
        per_node = 1 if gpus_each is not None else math.ceil(actors / max(1, len(nodes)))
        return cls(actors if nodes else 0, cpus, per_node, task)


def plan_pool(options: InferenceOptions, nodes: Sequence[NodeSize]) -> ActorPool:
    """Plan the pool of a job that begins, and print where it is smaller than asked for.

    Raises:
        RequestError: no node has room for one process, and for a task beside it.
    """
    pool = ActorPool.plan(options, nodes)
    if not pool.actors:
        gpus = f" and {options.cluster.gpus_per_worker:g} GPUs" if options.device == "cuda" else ""
        raise RequestError(
            f"no node has room for a process with {pool.cpus:g} CPUs{gpus} that holds the model, and for the tasks "
            "that feed it, at the latest once a node is lost; give less for each (cluster.worker_cpus, "
            "cluster.gpus_per_worker)"
        )
    if options.actors and pool.actors < options.actors:
        print(f"processes that hold the model: {pool.actors}, since the nodes have no room for {options.actors}")
    return pool


def watch_pool(context: DataContext, options: InferenceOptions, pool: ActorPool) -> None:
    """Let executions with this context end by `NodesChanged` once the nodes want more actors, fewer, or smaller shares.

    Ray's scheduler calls the watch in its own thread, also while it waits for an actor whose node is gone and for which
    no other node has a GPU.
    """
    watch = type("PoolWatch", (_PoolWatch,), {"options": options, "pool": pool})
    context.custom_execution_callback_classes = [cast(type[ExecutionCallback], watch)]


class _PoolWatch(ExecutionCallback):
    """Watch of one execution; Ray Data makes it from its class."""

    options: ClassVar[InferenceOptions]
    pool: ClassVar[ActorPool]

    def __init__(self) -> None:
        self._looked = self._since = time.monotonic()
        self._actors = self.pool.actors

    def on_execution_step(self, executor: Any) -> None:  # noqa: ANN401, ARG002 - Ray's own class, which is not public
        """Compare the nodes with the pool, at most once a second."""
        now, pool = time.monotonic(), self.pool
        if now - self._looked < LOOK_SECONDS:
            return
        self._looked = now
        wanted = ActorPool.plan(self.options, working_nodes())
        if wanted.actors != self._actors:
            self._actors, self._since = wanted.actors, now
        if not wanted.actors:
            return  # nothing to start them on: Ray waits for a node, too
        if wanted.actors > pool.actors:
            ends = now - self._since >= SETTLE_SECONDS
        else:
            ends = wanted.actors < pool.actors or wanted.cpus < pool.cpus or wanted.task_cpus < pool.task_cpus
        if ends:
            raise NodesChanged
