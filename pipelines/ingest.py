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
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import ray
import ray.data
from numpy.typing import NDArray
from ray.data import TaskPoolStrategy
from ray.data.expressions import col

from overlay.config import Augment, Input
from overlay.dataset.prepared import PreparedDataset
from overlay.errors import ImageError, WorkError
from overlay.images.augment import augment, generator
from overlay.images.codec import decode, decode_target, resize
from overlay.training.sampler import Plan

TASK_IMAGES = 256
"""about so many images one task of the stream makes, and hands on as one block, at least a step's: a task and its block
cost 60 ms of a core in themselves"""
LEAST_TASKS = 8
"""of an execution, which costs some tenths of a second in itself"""

_BLOCK = pa.schema([("step", pa.int64()), ("images", pa.large_binary()), ("labels", pa.list_(pa.int64()))])


class Source(Protocol):
    """Where a stream's images come from; it is sent to the tasks, so it must not be large."""

    @property
    def size(self) -> int:
        """Side of an image in pixels."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """(samples,) positions in the dataset's classes."""

    def tasks(self, plan: Plan, start: int) -> list[range]:
        """Divide the steps from ``start`` on among tasks."""

    def read(self, plan: Plan, steps: range, rank: int, world_size: int) -> Iterator[NDArray[np.uint8]]:
        """Yield the images (n, size, size, 3) of one worker's share of step after step."""


@dataclass(frozen=True)
class Samples:
    """The images of one split, decoded, in the object store, in the order of their ids."""

    labels: NDArray[np.int64]
    size: int
    blocks: list[ray.ObjectRef[NDArray[np.uint8]]]
    """arrays uint8 (rows, size, size, 3)"""
    places: NDArray[np.int64]
    """(n, 2): block and row in it of each sample"""

    def __len__(self) -> int:
        return len(self.labels)

    def gather(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the images of some samples, (len(indices), size, size, 3); reads shared memory without a copy."""
        needed = sorted(set(self.places[indices, 0].tolist()))
        blocks = dict(zip(needed, ray.get([self.blocks[b] for b in needed]), strict=True))
        return np.stack([blocks[block][row] for block, row in self.places[indices].tolist()])

    def tasks(self, plan: Plan, start: int) -> list[range]:
        """Divide the steps into equal parts of some images."""
        each = max(1, TASK_IMAGES // plan.batch_size)
        return [range(first, min(first + each, plan.steps)) for first in range(start, plan.steps, each)]

    def read(self, plan: Plan, steps: range, rank: int, world_size: int) -> Iterator[NDArray[np.uint8]]:
        """Take the images out of the object store."""
        for step in steps:
            yield self.gather(plan.batch(step, rank, world_size))


@dataclass(frozen=True)
class Batch:
    """What one worker sees in one step."""

    step: int
    images: NDArray[np.uint8]
    """(n, size, size, 3)"""
    labels: NDArray[np.int64]
    """(n,)"""


def decoded(dataset: PreparedDataset, split: str, config: Input, limit: int | None = None) -> Samples:
    """Decode and resize the images of a split, or ``limit`` of them, in parallel, and keep them in the object store.

    What does not fit into its memory, Ray spills to disk.

    Raises:
        WorkError: an image of the dataset can't be decoded.
    """
    rows = decoded_rows(dataset, split, config, batch_size=64, limit=limit).materialize()
    # One small table a block, asked for in the blocks' own order, says which image lies where.
    blocks = rows.to_numpy_refs(column="pixels")
    names = ray.get([_names.remote(block) for block in rows.to_arrow_refs()])
    ids = np.array([id for table in names for id in table["id"]], dtype=object)
    labels = np.array([dataset.card.classes.index(label) for table in names for label in table["label"]])
    places = np.array([(block, row) for block, table in enumerate(names) for row in range(len(table["id"]))])
    order = np.argsort(ids)
    return Samples(labels[order], config.size, blocks, places[order])


def decoded_rows(
    dataset: PreparedDataset, split: str, config: Input, batch_size: int, limit: int | None = None
) -> ray.data.Dataset:
    """Stream a split with the columns id, label, pixels (size, size, 3) and an empty reason."""
    rows = ray.data.read_parquet(dataset.data_files(), filesystem=dataset.filesystem).select_columns(
        ["id", "image", "label", "split"]
    )
    rows = rows.filter(expr=col("split") == split)
    return (rows if limit is None else rows.limit(limit)).map_batches(
        decode_rows,  # type: ignore[arg-type]  # Ray's type knows nothing of fn_kwargs
        batch_size=batch_size,
        batch_format="pyarrow",
        fn_kwargs={"config": config},
    )


def stream(
    source: Source,
    plan: Plan,
    config: Augment,
    *,
    rank: int,
    world_size: int,
    start: int,
    cpus: float,
    ahead_bytes: float,
) -> Iterator[Batch]:
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
                    yield Batch(rows["step"][row].as_py(), images, labels)


@dataclass(frozen=True)
class _Execution:
    """Some of a stream's tasks, each of which makes the batches of its steps."""

    source: Source
    plan: Plan
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
                augment(image, self.config, generator(self.plan.seed, epoch, sample, repeat)).tobytes()
                for image, sample, repeat in zip(images, samples.tolist(), repeats.tolist(), strict=True)
            ]
            labels = self.source.labels[samples].tolist()
            yield pa.table([[step], [b"".join(augmented)], [labels]], schema=_BLOCK)


def decode_rows(rows: pa.Table, config: Input) -> dict[str, NDArray[Any]]:
    """Decode and resize rows of a prepared dataset: id, label, pixels, and a reason that is always empty."""
    names, images = rows["id"].to_pylist(), rows["image"].to_pylist()
    pixels = np.empty((len(names), config.size, config.size, 3), np.uint8)
    for position, (name, image) in enumerate(zip(names, images, strict=True)):
        pixels[position] = decode_one(name, image["bytes"], config)
    labels = np.array(rows["label"].to_pylist())
    return {"id": np.array(names), "label": labels, "pixels": pixels, "reason": np.full(len(names), "")}


def decode_one(name: str, data: bytes, config: Input) -> NDArray[np.uint8]:
    """Decode and resize an image of a prepared dataset.

    Raises:
        WorkError: it can't be decoded.
    """
    try:
        return resize(decode(data, target=decode_target(config.size, config.resize)), config.size, config.resize)
    except ImageError as error:
        raise WorkError(f"the dataset's image {name} can't be decoded ({error}); prepare it again") from error


@ray.remote(num_cpus=0.1)
def _names(block: pa.Table) -> dict[str, list[str]]:
    return {"id": block["id"].to_pylist(), "label": block["label"].to_pylist()}
