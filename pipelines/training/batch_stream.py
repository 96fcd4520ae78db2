"""From a prepared dataset to the batches of a training run, by Ray Data.

Where the images fit into Ray's object store, each is decoded and resized once, in parallel. Where they don't, they are
read from the shards anew in each epoch, window by window. Either way one stream serves the whole run: its tasks gather
and augment the samples of step after step, in the plan's order, ahead of the training and across epochs. It is made of
short executions of Ray Data: while one's batches are used up, the next makes its own and ends. One execution for the
whole run would work far ahead at the training's cost, and then wait for room, which keeps a core of the training worker
busy: its scheduler (Ray 2.60) asks again and again without a pause. Two at one time would do the same on few CPUs.

Every worker runs its own stream over its own share of each batch. So what a worker sees depends on the plan, its rank
and the world size alone, and a resumed worker begins with the very next step.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data
from numpy.typing import NDArray
from ray.data import TaskPoolStrategy

from overlay.config import Augment
from overlay.images.augment import augment, augmentation_generator
from overlay.training.sampler import SamplePlan
from pipelines.training.image_source import TASK_IMAGES, ImageSource

LEAST_TASKS = 8
"""of an execution, which costs some tenths of a second in itself"""

_BLOCK = pa.schema([("step", pa.int64()), ("images", pa.large_binary()), ("labels", pa.list_(pa.int64()))])


@dataclass(frozen=True)
class TrainingBatch:
    """What one worker sees in one step."""

    step: int
    images: NDArray[np.uint8]
    """(n, size, size, 3)"""
    labels: NDArray[np.int64]
    """(n,)"""


def stream_batches(
    source: ImageSource,
    plan: SamplePlan,
    config: Augment,
    *,
    rank: int,
    world_size: int,
    start: int,
    cpus: float,
    ahead_bytes: float,
) -> Iterator[TrainingBatch]:
    """Yield one worker's batches from step ``start`` of the plan to its end, augmented ahead of their use.

    ``cpus`` bounds the tasks that work at one time for this worker, and ``ahead_bytes`` what they have made in advance,
    give or take a task.
    """
    tasks = source.tasks(plan, start)
    at_one_time = max(1, int(cpus))
    task_bytes = len(tasks[0]) * plan.batch_size / world_size * source.size**2 * 3
    each = max(1, min(int(ahead_bytes / 2 / task_bytes), max(LEAST_TASKS, 4 * at_one_time)))
    soon = min(each, at_one_time)  # the first execution is short, since the training waits for it
    parts = [tasks[:soon], *(tasks[first : first + each] for first in range(soon, len(tasks), each))]
    executions = [_Execution(source, plan, config, rank, world_size, part) for part in parts]
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.target_max_block_size = TASK_IMAGES * source.size**2 * 3
    with ThreadPoolExecutor(1, "next-execution") as ahead:
        following = ahead.submit(executions[0].run, at_one_time)
        for execution in [*executions[1:], None]:
            blocks = following.result()
            if execution is not None:
                following = ahead.submit(execution.run, at_one_time)
            while blocks:
                ray.wait(blocks[:2], num_returns=1)  # has the one after it fetched, too, from wherever it is
                rows = ray.get(blocks.pop(0))
                for row in range(len(rows)):
                    labels = np.array(rows["labels"][row].as_py())
                    images = np.frombuffer(rows["images"][row].as_buffer(), np.uint8)
                    images = images.reshape(len(labels), source.size, source.size, 3)
                    yield TrainingBatch(rows["step"][row].as_py(), images, labels)


@dataclass(frozen=True)
class _Execution:
    """Some of a stream's tasks, each of which makes the batches of its steps."""

    source: ImageSource
    plan: SamplePlan
    config: Augment
    rank: int
    world_size: int
    tasks: list[range]

    def run(self, at_one_time: int) -> list[ray.ObjectRef[pa.Table]]:
        """Make all batches; return the blocks in order."""
        tasks = len(self.tasks)
        blocks = ray.data.range(tasks, override_num_blocks=tasks).map_batches(
            self.batches,  # type: ignore[arg-type]  # NumPy columns, as the default format is
            batch_size=1,
            compute=TaskPoolStrategy(size=min(at_one_time, tasks)),
        )
        refs: list[ray.ObjectRef[pa.Table]] = blocks.materialize().to_arrow_refs()
        return refs

    def batches(self, rows: dict[str, NDArray[Any]]) -> Iterator[pa.Table]:
        steps = self.tasks[int(rows["id"][0])]
        read = self.source.read(self.plan, steps, self.rank, self.world_size)
        for step, images in zip(steps, read, strict=True):
            epoch = self.plan.epoch(step)
            samples = self.plan.batch(step, self.rank, self.world_size)
            repeats = self.plan.repeats(step, self.rank, self.world_size)
            augmented = [
                augment(image, self.config, augmentation_generator(self.plan.seed, epoch, sample, repeat)).tobytes()
                for image, sample, repeat in zip(images, samples.tolist(), repeats.tolist(), strict=True)
            ]
            labels = self.source.labels[samples].tolist()
            yield pa.table([[step], [b"".join(augmented)], [labels]], schema=_BLOCK)
