"""Prefetched training batches of one worker: images are read, augmented and batched by tasks of Ray Data.

Where the images fit into Ray's object store, each is decoded and resized once, in parallel. Where they don't, they are
read from the shards again in each epoch, window by window. Either way one stream serves the whole run: its tasks gather
and augment the samples of step after step, in the plan's order, ahead of the training and across epochs.

A stream consists of short executions of Ray Data: while one's batches are used up, the next makes its own and ends. One
execution for the whole run would work far ahead at the training's cost, and then wait for room, which keeps a core
busy: its scheduler (Ray 2.60) polls without a pause. Two at one time would do the same on few CPUs. The scheduler runs
in a process of its own, beside the worker, whose interpreter's lock it would take from the thread that queues a GPU's
work.

Every worker runs its own stream over its own share of each batch. So a worker's batches depend on the plan, its rank
and the world size alone, and a resumed worker begins with the very next step.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data
from numpy.typing import NDArray
from ray.actor import ActorHandle
from ray.data import TaskPoolStrategy
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from overlay.config import Augment
from overlay.images.augment import augment, augmentation_generator
from overlay.training.sampler import SINGLE_WORKER, SamplePlan, Worker
from pipelines.runtime.numbered_tasks import number_tasks
from pipelines.runtime.retries import TASK_RETRIES
from pipelines.training.image_source import TrainingData

LEAST_TASKS = 8
"""tasks in an execution, at least; an execution costs some tenths of a second in itself"""
TASK_IMAGES = 256
"""images that a task makes, about, and yields as one block, at least a step's: a task and its block cost 60 ms of a
core in themselves"""

_Blocks = list[ray.ObjectRef[pa.Table]]
_BLOCK = pa.schema([("step", pa.int64()), ("images", pa.large_binary()), ("labels", pa.list_(pa.int64()))])


@dataclass(frozen=True)
class TrainingBatch:
    """One worker's share of a step's batch, augmented."""

    step: int
    images: NDArray[np.uint8]
    """(n, size, size, 3)"""
    labels: NDArray[np.int64]
    """(n,)"""


class StreamProcess:
    """Actor beside a training worker, in whose process the executions of its streams are scheduled.

    Ray Data's scheduler is Python, and takes 3 to 9 ms for each step of 128 images. In the worker's own process the
    thread that queues a step's kernels would wait for it: torch gives up the interpreter's lock at every operation, and
    gets it back from a busy thread only after 5 ms (`sys.getswitchinterval`).
    """

    def run(self, execution: "_Execution") -> "_Blocks":
        """Run an execution, and return its blocks, which live as long as this process does."""
        return execution.run()


def start_stream_process() -> ActorHandle[StreamProcess]:
    """Start a `StreamProcess` on this node; it ends with the process that started it."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    # Two calls at one time, since a validation may need batches while those of the next epoch are made.
    actor = ray.remote(num_cpus=0, max_concurrency=2, scheduling_strategy=here)(StreamProcess)  # type: ignore[call-overload]
    process: ActorHandle[StreamProcess] = actor.remote()
    return process


@dataclass(frozen=True)
class StreamResources:
    """Resources that one worker's streams may use."""

    process: ActorHandle[StreamProcess]
    """see `start_stream_process`"""
    cpus: float
    """bounds the tasks that run at one time"""
    ahead_bytes: float
    """bounds the prefetched batches, give or take a task's"""
    task_cpus: float = 1.0
    """CPUs that each task reserves"""


def stream_batches(
    stored: ray.ObjectRef[TrainingData],
    augmentation: Augment,
    worker: Worker,
    *,
    start: int,
    resources: StreamResources,
) -> Iterator[TrainingBatch]:
    """Yield one worker's batches from step ``start`` of the plan to its end, prefetched as far as ``resources`` allow.

    The first ones are made from the call on, before one is asked for.

    ``stored``: the training data in the object store, since labels and positions of a large dataset would be pickled
    for each execution.
    """
    tasks = ray.get(stored).plan.task_steps(start, TASK_IMAGES)
    return _stream_tasks(_Stream(stored, augmentation, worker, resources.task_cpus), tasks, resources)


def stream_validation(
    stored: ray.ObjectRef[TrainingData], steps: range, resources: StreamResources
) -> Iterator[TrainingBatch]:
    """Yield whole batches of steps of a `SequentialPlan`, not augmented, prefetched as far as ``resources`` allow."""
    each = max(1, TASK_IMAGES // ray.get(stored).plan.batch_size)
    tasks = [steps[first : first + each] for first in range(0, len(steps), each)]
    return _stream_tasks(_Stream(stored, None, SINGLE_WORKER, resources.task_cpus), tasks, resources)


def _stream_tasks(stream: "_Stream", tasks: list[range], resources: StreamResources) -> Iterator[TrainingBatch]:
    """Begin to make the batches of all tasks, and yield them in order, made by one execution after the other."""
    if not tasks:
        return iter(())
    data = ray.get(stream.data)
    size = data.source.size
    at_one_time = max(1, int(resources.cpus))
    task_bytes = len(tasks[0]) * data.plan.batch_size / stream.worker.world_size * size**2 * 3
    each = max(1, min(int(resources.ahead_bytes / 2 / task_bytes), max(LEAST_TASKS, 4 * at_one_time)))
    soon = min(each, at_one_time)  # the first execution is short, since the training waits for it
    parts = [tasks[:soon], *(tasks[first : first + each] for first in range(soon, len(tasks), each))]
    executions = [_Execution(stream, part, at_one_time, TASK_IMAGES * size**2 * 3) for part in parts]
    return _run_executions(resources.process, resources.process.run.remote(executions[0]), executions[1:], size)


def _run_executions(
    process: ActorHandle[StreamProcess],
    following: "ray.ObjectRef[_Blocks]",
    executions: Sequence["_Execution"],
    size: int,
) -> Iterator[TrainingBatch]:
    """Yield the batches of the execution that runs, and of others after it, each run while the one before is used."""
    for execution in [*executions, None]:
        blocks = ray.get(following)
        if execution is not None:
            following = process.run.remote(execution)
        while blocks:
            ray.wait(blocks[:2], num_returns=1)  # starts the transfer of the block after it, too
            yield from _block_batches(ray.get(blocks.pop(0)), size)


def _block_batches(block: pa.Table, size: int) -> Iterator[TrainingBatch]:
    """Yield the batches of a block, with images as views of its memory."""
    labelled = zip(block["step"].to_pylist(), block["labels"].to_pylist(), strict=True)
    for (step, labels), pixels in zip(labelled, _binaries(block["images"]), strict=True):
        yield TrainingBatch(step, pixels.reshape(len(labels), size, size, 3), np.array(labels))


@dataclass(frozen=True)
class _Stream:
    """Batches of one worker."""

    data: ray.ObjectRef[TrainingData]
    augmentation: Augment | None
    """None for images as they are"""
    worker: Worker
    task_cpus: float


@dataclass(frozen=True)
class _Execution:
    """Part of a stream: some tasks, each of which makes the batches of its steps."""

    stream: _Stream
    tasks: list[range]
    at_one_time: int
    """most tasks that run at one time"""
    block_bytes: int
    """size of a block, at most"""

    def run(self) -> _Blocks:
        """Make all batches; return the blocks in order."""
        context = ray.data.DataContext.get_current()
        context.execution_options.preserve_order = True
        context.target_max_block_size = self.block_bytes
        tasks = len(self.tasks)
        most = min(self.at_one_time, tasks)
        blocks = number_tasks(tasks, self.stream.task_cpus, at_one_time=most).map_batches(
            self.make_batches,  # type: ignore[arg-type]  # NumPy columns, as the default format is
            batch_size=None,
            compute=TaskPoolStrategy(size=most),
            num_cpus=self.stream.task_cpus,
            max_retries=TASK_RETRIES,
        )
        refs: _Blocks = blocks.materialize().to_arrow_refs()
        return refs

    def make_batches(self, rows: dict[str, NDArray[Any]]) -> Iterator[pa.Table]:
        """Yield a row of the block for each step of one task; ``rows`` holds the task's number."""
        data, worker = ray.get(self.stream.data), self.stream.worker
        plan, steps = data.plan, self.tasks[int(rows["id"][0])]
        for step, images in zip(steps, data.source.read(plan, steps, worker), strict=True):
            self._augment(plan, step, images)
            labels = data.source.labels[plan.batch(step, worker)].tolist()
            yield pa.table([[step], _one_binary(images), [labels]], schema=_BLOCK)

    def _augment(self, plan: SamplePlan, step: int, images: NDArray[np.uint8]) -> None:
        """Augment the images of a step in place, where the stream augments."""
        augmentation, worker = self.stream.augmentation, self.stream.worker
        if augmentation is None:
            return
        samples, repeats = plan.batch(step, worker).tolist(), plan.repeats(step, worker).tolist()
        for image, sample, repeat in zip(images, samples, repeats, strict=True):
            random = augmentation_generator(plan.seed, plan.epoch(step), sample, repeat)
            image[...] = augment(image, augmentation, random)


def _binaries(column: pa.ChunkedArray) -> Iterator[NDArray[np.uint8]]:
    """Yield the values of a column of large binaries as views of its memory; pyarrow's scalars are copies."""
    for chunk in column.chunks:
        _, ends, values = chunk.buffers()
        edges = np.frombuffer(ends, np.int64)[chunk.offset : chunk.offset + len(chunk) + 1].tolist()
        for begin, end in pairwise(edges):
            yield np.frombuffer(values, np.uint8)[begin:end]


def _one_binary(array: NDArray[np.uint8]) -> pa.Array:
    """Return the bytes of a contiguous array as one value, without a copy."""
    ends = np.array([0, array.nbytes], np.int64)
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), 1, [None, pa.py_buffer(ends), pa.py_buffer(array)])
