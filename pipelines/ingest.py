"""From a prepared dataset to the batches of a training run, by Ray Data.

Each image is decoded and resized once, in parallel, into Ray's object store; after that one stream serves the whole
run: a task for each step gathers its samples, in the plan's order, and augments them ahead of the training step,
across the borders of epochs.

Every worker runs its own stream over its own share of each batch. So what a worker sees depends on the plan, its rank
and the world size alone, and a resumed worker begins with the very next step.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data
from numpy.typing import NDArray
from ray.data import TaskPoolStrategy
from ray.data.expressions import col

from overlay.augment import augment, generator
from overlay.config import Augment, Input
from overlay.dataset import PreparedDataset
from overlay.errors import ImageError, WorkError
from overlay.images import decode, decode_target, resize
from overlay.plan import Plan


@dataclass(frozen=True)
class Samples:
    """The images of one split, decoded, in the object store, in the order of their ids."""

    ids: list[str]
    labels: NDArray[np.int64]
    """(n,) positions in the dataset's classes"""
    blocks: list[ray.ObjectRef[NDArray[np.uint8]]]
    """arrays uint8 (rows, size, size, 3)"""
    places: NDArray[np.int64]
    """(n, 2): block and row in it of each sample"""

    def __len__(self) -> int:
        return len(self.ids)

    def gather(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the images of some samples, (len(indices), size, size, 3); reads shared memory without a copy."""
        needed = sorted(set(self.places[indices, 0].tolist()))
        blocks = dict(zip(needed, ray.get([self.blocks[b] for b in needed]), strict=True))
        return np.stack([blocks[block][row] for block, row in self.places[indices].tolist()])


@dataclass(frozen=True)
class Batch:
    """What one worker sees in one step."""

    step: int
    images: NDArray[np.uint8]
    """(n, size, size, 3)"""
    labels: NDArray[np.int64]
    """(n,)"""


def decoded(dataset: PreparedDataset, split: str, config: Input) -> Samples:
    """Decode and resize all images of a split, in parallel, and keep them in the object store.

    What does not fit into its memory, Ray spills to disk.

    Raises:
        WorkError: an image of the dataset can't be decoded.
    """
    rows = decoded_rows(dataset, split, config, batch_size=64).materialize()
    # One small table a block, asked for in the blocks' own order, says which image lies where.
    blocks = rows.to_numpy_refs(column="pixels")
    names = ray.get([_names.remote(block) for block in rows.to_arrow_refs()])
    ids = np.array([id for table in names for id in table["id"]], dtype=object)
    labels = np.array([dataset.card.classes.index(label) for table in names for label in table["label"]])
    places = np.array([(block, row) for block, table in enumerate(names) for row in range(len(table["id"]))])
    order = np.argsort(ids)
    return Samples(ids[order].tolist(), labels[order], blocks, places[order])


def decoded_rows(dataset: PreparedDataset, split: str, config: Input, batch_size: int) -> ray.data.Dataset:
    """Stream a split with the columns id, label, pixels (size, size, 3) and an empty reason."""
    rows = ray.data.read_parquet(dataset.data_files(), filesystem=dataset.filesystem).select_columns(
        ["id", "image", "label", "split"]
    )
    return rows.filter(expr=col("split") == split).map_batches(
        decode_rows,  # type: ignore[arg-type]  # Ray's type knows nothing of fn_kwargs
        batch_size=batch_size,
        batch_format="pyarrow",
        fn_kwargs={"config": config},
    )


def stream(
    samples: Samples, plan: Plan, config: Augment, *, rank: int, world_size: int, start: int, cpus: float
) -> Iterator[Batch]:
    """Yield one worker's batches from step ``start`` of the plan to its end, augmented ahead of their use.

    ``cpus`` bounds the tasks that work at one time for this worker.
    """
    source = _Source(samples, plan, config, rank, world_size, start)
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.target_max_block_size = None  # a step is one block, however large its images are
    steps = plan.steps - start
    batches = ray.data.range(steps, override_num_blocks=steps).map_batches(
        source.batch,  # type: ignore[arg-type]  # NumPy columns, as the default format is
        batch_size=1,
        compute=TaskPoolStrategy(size=max(1, int(cpus))),
    )
    for rows in batches.iter_batches(batch_size=None, prefetch_batches=2):
        assert isinstance(rows, dict)
        yield Batch(int(rows["step"][0]), rows["images"], rows["labels"])


@dataclass(frozen=True)
class _Source:
    """From the number of a step to its images: what a data task of the stream does."""

    samples: Samples
    plan: Plan
    config: Augment
    rank: int
    world_size: int
    start: int

    def batch(self, rows: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        step = self.start + int(rows["id"][0])
        indices = self.plan.batch(step, self.rank, self.world_size)
        epoch = self.plan.epoch(step)
        images = [
            augment(image, self.config, generator(self.plan.seed, epoch, index))
            for image, index in zip(self.samples.gather(indices), indices.tolist(), strict=True)
        ]
        return {
            "step": np.full(len(indices), step),
            "images": np.stack(images),
            "labels": self.samples.labels[indices],
        }


def decode_rows(rows: pa.Table, config: Input) -> dict[str, NDArray[Any]]:
    """Decode and resize rows of a prepared dataset: id, label, pixels, and a reason that is always empty."""
    names, images = rows["id"].to_pylist(), rows["image"].to_pylist()
    pixels = np.empty((len(names), config.size, config.size, 3), np.uint8)
    for position, (name, image) in enumerate(zip(names, images, strict=True)):
        try:
            drawn = decode(image["bytes"], target=decode_target(config.size, config.resize))
        except ImageError as error:
            raise WorkError(f"the dataset's image {name} can't be decoded ({error}); prepare it again") from error
        pixels[position] = resize(drawn, config.size, config.resize)
    labels = np.array(rows["label"].to_pylist())
    return {"id": np.array(names), "label": labels, "pixels": pixels, "reason": np.full(len(names), "")}


@ray.remote(num_cpus=0.1)
def _names(block: pa.Table) -> dict[str, list[str]]:
    return {"id": block["id"].to_pylist(), "label": block["label"].to_pylist()}
