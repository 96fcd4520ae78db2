"""Training images of a run and where they are stored; those of one split, decoded, in Ray's object store."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np
import pyarrow as pa
import ray
import ray.data
from numpy.typing import NDArray
from ray.data.block import BlockAccessor
from ray.exceptions import RayError

from overlay.config import Input
from overlay.dataset.prepared import PreparedDataset
from overlay.errors import WorkError
from overlay.sources.split_reading import stored_images
from overlay.training.sampler import SamplePlan, Worker
from pipelines.runtime.dataset_rows import read_on_ray
from pipelines.runtime.ray_errors import explain_ray_error
from pipelines.runtime.silence import SilenceWatch, report_silence


class ImageSource(Protocol):
    """Storage of a split's images, from which data tasks read batches."""

    @property
    def size(self) -> int:
        """Side of an image in pixels."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """(samples,) positions in the dataset's classes."""

    def read(self, plan: SamplePlan, steps: range, worker: Worker) -> Iterator[NDArray[np.uint8]]:
        """Yield for each step the images (n, size, size, 3) of one worker's share of the batch.

        Each array is the caller's own, contiguous, and may be changed.
        """


@dataclass(frozen=True)
class TrainingData:
    """Training images and the order in which a run uses them; the plan numbers samples as the source does."""

    source: ImageSource
    plan: SamplePlan


@dataclass(frozen=True)
class DecodedImages:
    """Decoded images of one split, in the object store."""

    labels: NDArray[np.int64]
    size: int
    blocks: list[ray.ObjectRef[NDArray[np.uint8]]]
    """arrays uint8 (rows, size, size, 3)"""
    positions: NDArray[np.int64]
    """(n, 2): block of each sample, and row in the block"""

    def __len__(self) -> int:
        return len(self.labels)

    def gather(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the images of some samples, (len(indices), size, size, 3); reads shared memory without a copy."""
        needed = sorted(set(self.positions[indices, 0].tolist()))
        blocks = dict(zip(needed, ray.get([self.blocks[b] for b in needed]), strict=True))
        return np.stack([blocks[block][row] for block, row in self.positions[indices].tolist()])

    def read(self, plan: SamplePlan, steps: range, worker: Worker) -> Iterator[NDArray[np.uint8]]:
        """Yield for each step the images of one worker's share of the batch, out of the object store."""
        for step in steps:
            yield self.gather(plan.batch(step, worker))


def decode_split(
    dataset: PreparedDataset, split: str, config: Input, limit: int | None = None, *, as_stored: bool = False
) -> DecodedImages:
    """Decode and resize a split's images, or the first ``limit``, in parallel, and keep them in the object store.

    They are numbered in the order of their ids, or with ``as_stored`` as they lie in the shards. Ray spills to disk
    what does not fit into the store's memory.

    Raises:
        WorkError: an image of the dataset can't be decoded, or a worker failed again and again.
    """
    batches = read_on_ray(stored_images(dataset, split, config, batch_size=64))
    batches.context.execution_options.preserve_order = as_stored
    try:
        with report_silence(SilenceWatch(f"decoding the {split} images")):
            rows = (batches if limit is None else batches.limit(limit)).materialize()
    except RayError as error:
        raise WorkError(f"decoding the {split} images stopped: {explain_ray_error(error)}") from error
    # One small table a block, fetched in the order of the blocks, holds the position of each image.
    tables = rows.to_arrow_refs()
    names = ray.get([_read_names.remote(table) for table in tables])
    filled = [place for place, name in enumerate(names) if name["id"]]  # a shard may have no image of the split
    blocks, names = [_read_pixels.remote(tables[place]) for place in filled], [names[place] for place in filled]
    ids = np.array([id for table in names for id in table["id"]], dtype=object)
    labels = np.array([dataset.card.classes.index(label) for table in names for label in table["label"]])
    positions = np.array([(block, row) for block, table in enumerate(names) for row in range(len(table["id"]))])
    order = np.arange(len(ids)) if as_stored else np.argsort(ids)
    return DecodedImages(labels[order], config.size, blocks, positions[order])


@ray.remote(num_cpus=0.1)
def _read_names(block: pa.Table) -> dict[str, list[str]]:
    return {name: block[name].to_pylist() if block.num_rows else [] for name in ("id", "label")}


@ray.remote(num_cpus=0.1)
def _read_pixels(block: pa.Table) -> NDArray[np.uint8]:
    return cast(NDArray[np.uint8], BlockAccessor.for_block(block).to_numpy("pixels"))
