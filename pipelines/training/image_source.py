"""Decoded training images, in the object store or in shards."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa
import ray
import ray.data
from numpy.typing import NDArray

from overlay.config import Input
from overlay.dataset.prepared import PreparedDataset
from overlay.training.sampler import SamplePlan
from pipelines.runtime.dataset_rows import decoded_rows

TASK_IMAGES = 256
"""about so many images one task of the stream makes, and hands on as one block, at least a step's: a task and its block
cost 60 ms of a core in themselves"""


class ImageSource(Protocol):
    """Where a stream's images come from; it is sent to the tasks, so it must not be large."""

    @property
    def size(self) -> int:
        """Side of an image in pixels."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """(samples,) positions in the dataset's classes."""

    def tasks(self, plan: SamplePlan, start: int) -> list[range]:
        """Divide the steps from ``start`` on among tasks."""

    def read(self, plan: SamplePlan, steps: range, rank: int, world_size: int) -> Iterator[NDArray[np.uint8]]:
        """Yield the images (n, size, size, 3) of one worker's share of step after step."""


@dataclass(frozen=True)
class DecodedImages:
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

    def tasks(self, plan: SamplePlan, start: int) -> list[range]:
        """Divide the steps into equal parts of some images."""
        each = max(1, TASK_IMAGES // plan.batch_size)
        return [range(first, min(first + each, plan.steps)) for first in range(start, plan.steps, each)]

    def read(self, plan: SamplePlan, steps: range, rank: int, world_size: int) -> Iterator[NDArray[np.uint8]]:
        """Take the images out of the object store."""
        for step in steps:
            yield self.gather(plan.batch(step, rank, world_size))


def decode_split(dataset: PreparedDataset, split: str, config: Input, limit: int | None = None) -> DecodedImages:
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
    return DecodedImages(labels[order], config.size, blocks, places[order])


@ray.remote(num_cpus=0.1)
def _names(block: pa.Table) -> dict[str, list[str]]:
    return {"id": block["id"].to_pylist(), "label": block["label"].to_pylist()}
