"""Ray Dataset of the decoded rows of a prepared dataset."""

from typing import TypedDict

import numpy as np
import pyarrow as pa
import ray
import ray.data
from numpy.typing import NDArray
from ray.data.expressions import col

from overlay.config import Input
from overlay.dataset.prepared import PreparedDataset
from overlay.errors import ImageError, WorkError
from overlay.images.ref import ImageRef
from overlay.sources.decode import StoredLook, decode_ref


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
    chosen = dataset.rows_of(split)
    rows = ray.data.read_parquet(dataset.data_files(), filesystem=dataset.filesystem).select_columns(
        ["id", "image", "label", chosen.column]
    )
    rows = rows.filter(expr=col(chosen.column).is_in(list(chosen.values)))
    return (rows if limit is None else rows.limit(limit)).map_batches(
        decode_rows,  # type: ignore[arg-type]  # Ray's type knows nothing of fn_kwargs
        batch_size=batch_size,
        batch_format="pyarrow",
        fn_kwargs={"config": config, "max_pixels": dataset.card.request.max_pixels},
    )


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
