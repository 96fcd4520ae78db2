"""Reading of a split of a prepared dataset: rows of its shards, decoded and resized, by any process."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

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
    error_kind: NDArray[np.str_]
    """always empty"""


@dataclass(frozen=True)
class SplitReading:
    """Reading of some columns of a split's rows; it can be pickled."""

    shards: list[StoragePath]
    columns: tuple[str, ...]
    chosen: RowSelection
    decode: Callable[[pa.Table], Mapping[str, object]]
    """what is made of a few rows: columns of a batch"""
    batch_size: int

    @classmethod
    def of(
        cls,
        dataset: PreparedDataset,
        split: str,
        columns: Sequence[str],
        decode: Callable[[pa.Table], Mapping[str, object]],
        batch_size: int,
    ) -> "SplitReading":
        """Create the reading of a split."""
        shards = [part_path(dataset.place, part) for part in range(dataset.card.parts)]
        return cls(shards, tuple(columns), dataset.rows_of(split), decode, batch_size)

    def rows(self, shard: int, part: int = 0, parts: int = 1) -> pa.Table:
        """Read the split's rows of one of equal parts of a shard."""
        table = open_parquet(self.shards[shard]).read(columns=sorted({*self.columns, self.chosen.column}))
        rows = table.filter(pc.is_in(table[self.chosen.column], self.chosen.value_set)).select(self.columns)
        start, end = (len(rows) * edge // parts for edge in (part, part + 1))
        return rows.slice(start, end - start)

    def batches(self, shard: int, part: int = 0, parts: int = 1) -> Iterator[Mapping[str, object]]:
        """Yield the decoded batches of one of equal parts of a shard."""
        yield from map(self.decode, self.cut(self.rows(shard, part, parts)))

    def cut(self, rows: pa.Table) -> Iterator[pa.Table]:
        """Yield slices of at most ``batch_size`` rows."""
        for first in range(0, len(rows), self.batch_size):
            yield rows.slice(first, self.batch_size)


def stored_images(dataset: PreparedDataset, split: str, config: Input, batch_size: int) -> SplitReading:
    """Return the reading of a split's images, as batches with the columns of `DatasetBatch`."""
    decode = partial(decode_rows, config=config, max_pixels=dataset.card.request.max_pixels)
    return SplitReading.of(dataset, split, ("id", "image", "label"), decode, batch_size)


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
    nothing = np.full(len(names), "")
    return DatasetBatch(id=np.array(names), label=labels, pixels=pixels, reason=nothing, error_kind=nothing)


def decode_stored(name: str, data: bytes, config: Input, max_pixels: int) -> NDArray[np.uint8]:
    """Decode and resize an image of a prepared dataset, uint8 (size, size, 3).

    Raises:
        WorkError: the image can't be decoded.
    """
    try:
        return decode_ref(ImageRef(name, name), StoredLook(config.size, config.resize), max_pixels, lambda _: data)
    except ImageError as error:
        raise WorkError(f"the dataset's image {name} can't be decoded ({error}); prepare it again") from error
