"""From decoded images to probabilities: the pool of model actors behind evaluation and prediction."""

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import ray
import ray.data
from ray.data import ActorPoolStrategy

from cluster.session import Resources
from overlay.config import EngineKind, Precision
from overlay.engines.base import Columns, EnginePlan, Pixels, score_rows
from overlay.engines.factory import open_engine, prepare_engine
from pipelines.runtime.placement import actor_cpus

if TYPE_CHECKING:
    from overlay.models.model_file import ModelFile  # which imports torch, and an actor with OpenVINO needs none

BATCHES_IN_FLIGHT = 2
"""one that is computed, and one that waits in the actor"""


@dataclass(frozen=True)
class InferenceOptions:
    """How the model runs."""

    device: Literal["cpu", "cuda"]
    precision: Precision
    batch_size: int
    actors: int | None = None
    """processes that hold the model; where it is None, one for each GPU, or for each node on CPUs"""
    kind: EngineKind = "torch"
    flips: bool = False
    """average the probabilities of an image and of its mirror image"""
    embeddings: bool = False
    """add the column ``embedding``"""
    calibration: Pixels | None = None
    """images (n, size, size, 3) for int8"""


def score_rows_with(
    rows: ray.data.Dataset, loaded: "ModelFile", engine: InferenceOptions, cluster: Resources
) -> ray.data.Dataset:
    """Replace the column ``pixels`` by those of :func:`overlay.engines.base.score_rows`; all other columns stay.

    The model is converted here, once, and reaches the actors through the object store.

    Raises:
        RequestError: the engine is not installed, or doesn't fit the device or the precision.
    """
    return score_with_plan(create_engine_plan(loaded, engine), rows, engine, cluster)


def create_engine_plan(loaded: "ModelFile", engine: InferenceOptions) -> EnginePlan:
    """Convert a model for an engine, before anything is written.

    Raises:
        RequestError: as `score`.
    """
    return prepare_engine(loaded, engine.kind, engine.device, engine.precision, engine.calibration)


def score_with_plan(
    plan: EnginePlan, rows: ray.data.Dataset, engine: InferenceOptions, cluster: Resources
) -> ray.data.Dataset:
    """Do what `score` does, with a model that is converted already."""
    actors = actor_count(engine, cluster)
    return rows.map_batches(
        ModelActor,
        fn_constructor_args=(
            ray.put(plan),
            replace(engine, calibration=None),
            actors_per_node(actors, engine, cluster),
        ),
        batch_size=engine.batch_size,
        compute=ActorPoolStrategy(size=actors, max_tasks_in_flight_per_actor=BATCHES_IN_FLIGHT),
        # Less than a whole CPU: where actors ask for as much as the tasks before them, Ray Data fuses the two.
        num_cpus=0.9 * actor_cpus(actors, cluster),
        num_gpus=int(engine.device == "cuda"),
    )


def actor_count(engine: InferenceOptions, cluster: Resources) -> int:
    """Return how many processes hold the model."""
    return engine.actors or (max(1, int(cluster.gpus)) if engine.device == "cuda" else cluster.cpu_nodes)


def actors_per_node(actors: int, engine: InferenceOptions, cluster: Resources) -> int:
    """Return among how many actors the cores of a node are divided; Ray Data spreads actors over the nodes."""
    return 1 if engine.device == "cuda" else math.ceil(actors / cluster.cpu_nodes)


class ModelActor:
    """An actor that holds the model."""

    def __init__(self, plan: "ray.ObjectRef[EnginePlan]", engine: InferenceOptions, share: int) -> None:
        self._engine = open_engine(ray.get(plan), batch_size=engine.batch_size, share=share, flips=engine.flips)
        self._embeddings = engine.embeddings

    def __call__(self, rows: Columns) -> Columns:
        """Score one batch; rows with a reason take no part in the forward pass."""
        return score_rows(self._engine, rows, self._embeddings)
