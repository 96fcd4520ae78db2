"""Ray Dataset of the decoded rows of a prepared dataset."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data
from numpy.typing import NDArray

from cluster import session
from overlay.config import Input
from overlay.dataset.prepared import PreparedDataset, RowSelection, part_path
from overlay.errors import ImageError, WorkError
from overlay.images.ref import ImageRef
from overlay.sources.decode import StoredLook, decode_ref
from overlay.storage.parquet import open_parquet
from overlay.storage.path import StoragePath


class DatasetBatch(TypedDict):
    """Batch of n decoded rows of a prepared dataset."""

    id: NDArray[np.str_]
    label: NDArray[np.str_]
    pixels: NDArray[np.uint8]
    """(n, size, size, 3)"""
    reason: NDArray[np.str_]
    """always empty, since every image of a dataset can be decoded"""


def decoded_rows(
    dataset: PreparedDataset, split: str, config: Input, batch_size: int, limit: int | None = None
) -> ray.data.Dataset:
    """Return a lazy Ray Dataset of a split, or of its first ``limit`` rows, with the columns of `DatasetBatch`."""
    decode = partial(decode_rows, config=config, max_pixels=dataset.card.request.max_pixels)
    rows = map_split(dataset, split, ("id", "image", "label"), decode, batch_size)
    return rows if limit is None else rows.limit(limit)


def map_split(
    dataset: PreparedDataset,
    split: str,
    columns: Sequence[str],
    function: Callable[[pa.Table], Mapping[str, object]],
    batch_size: int,
) -> ray.data.Dataset:
    """Return a lazy Ray Dataset of what ``function`` makes of batches of some columns of a split's rows.

    Each task reads a part of a shard. Ray's own ``read_parquet`` starts several actors in each execution to find out
    what the shards hold, which takes seconds, and the card says it.
    """
    slices = max(1, round(session.resources().cpus / dataset.card.parts))
    files = [part_path(dataset.place, part) for part in range(dataset.card.parts)]
    reading = _SplitReading(files, slices, list(columns), dataset.rows_of(split), function, batch_size)
    units = [{"part": part, "slice": number} for part in range(len(files)) for number in range(slices)]
    blocks = ray.data.from_items(units, override_num_blocks=len(units))
    return blocks.map_batches(reading.map, batch_size=1)  # type: ignore[arg-type]  # Ray's type knows no such mappings


@dataclass(frozen=True)
class _SplitReading:
    files: list[StoragePath]
    slices: int
    """tasks that share a shard"""
    columns: list[str]
    chosen: RowSelection
    function: Callable[[pa.Table], Mapping[str, object]]
    batch_size: int

    def map(self, units: dict[str, NDArray[np.int64]]) -> Iterator[Mapping[str, object]]:
        """Yield what the function makes of the batches of one slice of a shard."""
        part, number = int(units["part"][0]), int(units["slice"][0])
        table = open_parquet(self.files[part]).read(columns=sorted({*self.columns, self.chosen.column}))
        rows = table.filter(pc.is_in(table[self.chosen.column], self.chosen.value_set)).select(self.columns)
        start, end = (len(rows) * edge // self.slices for edge in (number, number + 1))
        for first in range(start, end, self.batch_size):
            yield self.function(rows.slice(first, min(self.batch_size, end - first)))


def decode_rows(rows: pa.Table, config: Input, max_pixels: int) -> DatasetBatch:
    """Decode and resize rows of a prepared dataset.

    Raises:
        WorkError: an image can't be decoded.
    """
    names, images = rows["id"].to_pylist(), rows["image"].to_pylist()
    pixels = np.empty((len(names), config.size, config.size, 3), np.uint8)
    for position, (name, image) in enumerate(zip(names, images, strict=True)):
        pixels[position] = decode_stored(name, image["bytes"], config, max_pixels)
    labels = np.array(rows["label"].to_pylist())
    return DatasetBatch(id=np.array(names), label=labels, pixels=pixels, reason=np.full(len(names), ""))


def decode_stored(name: str, data: bytes, config: Input, max_pixels: int) -> NDArray[np.uint8]:
    """Decode and resize an image of a prepared dataset, uint8 (size, size, 3).

    Raises:
        WorkError: the image can't be decoded.
    """
    try:
        return decode_ref(ImageRef(name, name), StoredLook(config.size, config.resize), max_pixels, lambda _: data)
    except ImageError as error:
        raise WorkError(f"the dataset's image {name} can't be decoded ({error}); prepare it again") from error
