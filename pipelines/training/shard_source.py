"""Training images read from a dataset's shards in each epoch: for datasets too large for the cluster's memory."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cluster.nodes import Resources
from overlay.config import Input
from overlay.dataset.prepared import PreparedDataset, part_path
from overlay.sources.split_reading import decode_stored
from overlay.storage.ahead import read_ahead
from overlay.storage.parquet import open_parquet, row_group_starts
from overlay.storage.path import StoragePath
from overlay.training.sampler import SamplePlan, Worker

STORE_SHARE = 0.5
"""largest share of a node's object store that decoded images may take"""


def fits_in_memory(images: int, config: Input, cluster: Resources) -> bool:
    """Whether so many decoded images leave room in every node's object store for the batches that pass through it."""
    return images * config.size**2 * 3 <= STORE_SHARE * cluster.store_bytes


@dataclass(frozen=True)
class ShardSource:
    """Encoded images of one split in a dataset's shards, numbered as they lie there."""

    files: list[StoragePath]
    rows: list[NDArray[np.int64]]
    """row numbers of the split in each file"""
    labels: NDArray[np.int64]
    input: Input
    max_pixels: int

    @property
    def size(self) -> int:
        """Side of an image in pixels."""
        return self.input.size

    def read(self, plan: SamplePlan, steps: range, worker: Worker) -> Iterator[NDArray[np.uint8]]:
        """Yield for each step the images of one worker's share of the batch.

        The bytes of all steps' images are read first, from the row groups that hold them, so the steps should be those
        of one window (`WindowedSamplePlan`); they are decoded step after step.
        """
        batches = [plan.batch(step, worker) for step in steps]
        encoded = self._read_bytes(np.sort(np.concatenate(batches)))
        for batch in batches:
            yield np.stack(
                [decode_stored(*encoded.pop(sample), self.input, self.max_pixels) for sample in batch.tolist()]
            )

    def _read_bytes(self, samples: NDArray[np.int64]) -> dict[int, tuple[str, bytes]]:
        """Return the id and the bytes of some samples, whose numbers ascend."""
        starts = np.cumsum([0, *map(len, self.rows)])
        found: dict[int, tuple[str, bytes]] = {}
        for shard in np.unique(np.searchsorted(starts, samples, side="right") - 1).tolist():
            here = samples[(samples >= starts[shard]) & (samples < starts[shard + 1])]
            names, images = read_stored(self.files[shard], self.rows[shard][here - starts[shard]])
            found |= zip(here.tolist(), zip(names, images, strict=True), strict=True)
        return found


def read_stored(file: StoragePath, rows: NDArray[np.int64]) -> tuple[list[str], list[bytes]]:
    """Return the ids and the images' bytes of some rows of a shard, whose numbers ascend; reads their row groups only.

    Raises:
        OSError: the shard can't be read.
    """
    names, images = list[str](), list[bytes]()
    with open_parquet(file) as shard:
        starts = row_group_starts(shard)
        groups = np.searchsorted(starts, rows, side="right") - 1
        for group in np.unique(groups).tolist():
            table = shard.read_row_group(group, columns=["id", "image"]).take(rows[groups == group] - starts[group])
            names += table["id"].to_pylist()
            images += [image["bytes"] for image in table["image"].to_pylist()]
    return names, images


def open_shards(dataset: PreparedDataset, split: str, config: Input) -> ShardSource:
    """Locate a split's images in the shards; reads the columns label and split (or fold) only.

    Raises:
        OSError: a shard can't be read.
    """
    chosen, classes = dataset.rows_of(split), pa.array(dataset.card.classes)

    def locate(part: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        with open_parquet(part_path(dataset.place, part)) as file:
            table = file.read(columns=["label", chosen.column])
        here = np.flatnonzero(pc.is_in(table[chosen.column], chosen.value_set).to_numpy())
        return here, pc.index_in(table["label"].take(here), classes).to_numpy().astype(np.int64)

    files, rows, labels = [], [], [np.zeros(0, np.int64)]
    for part, (here, own) in enumerate(read_ahead(dataset.place, locate, range(dataset.card.parts))):
        if len(here):
            files.append(part_path(dataset.place, part))
            rows.append(here)
            labels.append(own)
    return ShardSource(files, rows, np.concatenate(labels), config, dataset.card.request.max_pixels)
