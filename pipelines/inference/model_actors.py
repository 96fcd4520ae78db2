"""Pool of model actors on Ray Data: decoded batches to scored batches, for evaluation and prediction."""

from typing import Any

import ray
import ray.data
from ray.data import ActorPoolStrategy

from overlay.config import InferenceOptions
from overlay.engines.base import BatchScores, EnginePlan, ImageBatch, replace_pixels
from overlay.engines.factory import open_engine
from pipelines.inference.actor_pool import ActorPool
from pipelines.runtime.retries import TASK_RETRIES

BATCHES_WAITING = 1
"""batches that wait at an actor, beside those that its engine has"""


def score_with_plan(
    plan: EnginePlan, rows: ray.data.Dataset, options: InferenceOptions, pool: ActorPool
) -> ray.data.Dataset:
    """Replace the column ``pixels`` by those of `overlay.engines.base.BatchScores`; all other columns stay.

    The plan reaches the actors through the object store.
    """
    return rows.map_batches(
        ModelActor,
        fn_constructor_args=(ray.put(plan), options, pool.per_node),
        batch_size=options.rows,
        compute=ActorPoolStrategy(
            size=pool.actors,
            max_tasks_in_flight_per_actor=plan.in_flight + BATCHES_WAITING,
            max_concurrent_calls_per_actor=plan.in_flight,
            enable_true_multi_threading=plan.in_flight > 1,
        ),
        # Where actors ask for as much as the tasks before them, Ray Data fuses the two.
        num_cpus=0.99 * pool.cpus if pool.cpus == pool.task_cpus else pool.cpus,
        num_gpus=options.cluster.gpus_per_worker if options.device == "cuda" else 0,
        # Restarts are bounded, and calls only by them: where a node is lost, a call fails within milliseconds, many
        # times until Ray knows of the loss.
        max_restarts=TASK_RETRIES,
        max_task_retries=-1,
        **_node_choice(options),
    )


def _node_choice(options: InferenceOptions) -> dict[str, Any]:
    """Return Ray's options of an actor for memory, kind of GPU and labels of the node, where they are given."""
    own, chosen = options.cluster, dict[str, Any]()
    if own.memory is not None:
        chosen["memory"] = own.memory * 2**30
    if own.accelerator_type is not None and options.device == "cuda":
        chosen["accelerator_type"] = own.accelerator_type
    if own.node_labels:
        chosen["label_selector"] = own.node_labels
    return chosen


class ModelActor:
    """Actor that holds the model."""

    def __init__(self, plan: "ray.ObjectRef[EnginePlan]", options: InferenceOptions, share: int) -> None:
        self._engine = open_engine(ray.get(plan), batch_size=options.batch_size, share=share, flips=options.flips)
        self._embeddings = options.embeddings

    def __call__(self, rows: ImageBatch) -> BatchScores:
        """Replace the pixels of a batch by their scores; all other columns of the batch stay."""
        return replace_pixels(self._engine, rows, self._embeddings)
