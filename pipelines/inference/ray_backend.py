"""Ray backend of a prediction: tasks that read and decode, and a pool of model actors."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import cast

import ray
import ray.data
from ray.exceptions import RayError

from cluster import session
from overlay.config import InferenceOptions, Predict
from overlay.engines.base import Pixels, ScoredBatch
from overlay.engines.factory import prepare_engines
from overlay.errors import WorkError
from overlay.models.model_file import ModelFile
from overlay.prediction.cost import OccupiedHardware
from overlay.sources.decode import GroupDecoder
from overlay.sources.read_plan import ReadUnit, join_units
from overlay.storage.path import StoragePath
from pipelines.inference.actor_pool import LOOK_SECONDS, ActorPool, NodesChanged, plan_pool, watch_pool
from pipelines.inference.model_actors import score_with_plan
from pipelines.inference.read_groups import TaskResources, decode_groups, read_groups
from pipelines.runtime.placement import choose_device
from pipelines.runtime.ray_errors import explain_ray_error
from pipelines.runtime.retries import TASK_RETRIES
from pipelines.runtime.room import await_actors
from pipelines.runtime.shared_disk import check_shared_disk
from pipelines.runtime.task_memory import node_memory, split_by_memory, task_bytes

_JOINED_GROUPS = 8
_MOST_READERS = 1000
_TASKS_END_SECONDS = 60.0
"""in which tasks of an execution that has ended end, too; others may hold the CPUs by then"""


class RayBackend:
    """Backend with decoding tasks and model actors on a Ray cluster.

    Raises:
        RequestError: the cluster can't be joined or lacks the requested resources, or the engine does not support the
            model, the device or the precision.
    """

    def __init__(self, config: Predict, models: Sequence[ModelFile], calibration: Pixels | None) -> None:
        session.connect()
        await_actors(config.device, config.actors, config.cluster)
        inputs = [("inputs", StoragePath.of(each)) for each in config.inputs if each != "-"]
        check_shared_disk(read=inputs, written=[("out", StoragePath.of(config.out))])
        cluster, self._limits = session.resources(), config.limits
        self._held = cluster.cpus - cluster.free_cpus  # by other jobs
        self._engine = InferenceOptions(
            choose_device(config.device, cluster),
            config.precision,
            config.batch_size,
            config.actors,
            kind=config.engine,
            flips=config.flips,
            embeddings=config.embeddings,
            cluster=config.cluster,
        )
        self._plan = prepare_engines(
            models, self._engine.kind, self._engine.device, self._engine.precision, calibration
        )
        self.computed = str(self._plan)
        self._pool = plan_pool(self._engine, cluster.nodes)
        self.processes: Mapping[str, float] = {
            "read": cluster.cpus,
            "decode": cluster.cpus,
            "forward": float(self._pool.actors),
        }
        """stage -> number of processes"""
        gpus = self._pool.actors * config.cluster.gpus_per_worker if self._engine.device == "cuda" else 0
        self.hardware: OccupiedHardware | None = OccupiedHardware(cluster.cpus, gpus)
        """None once nodes came or went"""

    def classify(self, decoder: GroupDecoder, remaining: Callable[[], Sequence[ReadUnit]]) -> Iterator[ScoredBatch]:
        """Yield the scored rows of the units that remain, one batch at a time, in any order.

        Where nodes go or come, so that another number of actors fits, the actors start anew with what remains then.

        Raises:
            WorkError: a task or an actor failed after all of Ray's retries.
        """
        while True:
            try:
                for some in split_by_memory(remaining(), self._limits):
                    yield from self._classify(decoder, some)
                return
            except NodesChanged:
                self._plan_pool_anew()
            except RayError as error:
                reason = explain_ray_error(error)
                raise WorkError(f"prediction stopped: {reason}; the same command goes on from here") from error

    def _plan_pool_anew(self) -> None:
        """Plan the pool for the nodes that are there now; wait for one where none is, and for the tasks that still run.

        Tasks of the execution that ended may hold all CPUs of a node that came: the processes that hold the model would
        all start elsewhere.
        """
        deadline = time.monotonic() + _TASKS_END_SECONDS
        while True:
            cluster = session.resources()
            pool = ActorPool.plan(self._engine, cluster.nodes)
            ended = cluster.free_cpus >= cluster.cpus - self._held
            if pool.actors and (ended or time.monotonic() > deadline):
                break
            time.sleep(LOOK_SECONDS)
        print(f"processes that hold the model: {pool.actors}, before {self._pool.actors}", flush=True)
        self._pool, self.hardware = pool, None

    def _classify(self, decoder: GroupDecoder, units: Sequence[ReadUnit]) -> Iterator[ScoredBatch]:
        cpus = max(1, int(session.resources().cpus))
        several = join_units(units, at_least=8 * cpus, most=_JOINED_GROUPS)
        memory = min(node_memory(), task_bytes(max(unit.largest for unit in units), self._limits))
        resources = TaskResources(self._pool.task_cpus, memory, readers=min(cpus, _MOST_READERS))
        groups = read_groups(decoder.manifest, several, resources)
        rows = groups.rows.map_batches(
            decode_groups,  # type: ignore[arg-type]  # Ray's type knows nothing of fn_kwargs
            batch_size=1,
            batch_format="pyarrow",
            fn_kwargs={"decoder": ray.put(decoder)},
            num_cpus=groups.cpus,
            memory=memory,
            max_retries=TASK_RETRIES,
        )
        scored = score_with_plan(self._plan, rows, self._engine, self._pool)
        watch_pool(scored.context, self._engine, self._pool)
        for block in scored.iter_batches(batch_size=None):
            yield cast(ScoredBatch, block)  # NumPy columns, as the default format is
