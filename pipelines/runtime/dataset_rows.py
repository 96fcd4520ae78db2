"""Decoded rows of a prepared dataset, by Ray Data."""

from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data
from numpy.typing import NDArray
from ray.data.expressions import col

from overlay.config import Input
from overlay.dataset.prepared import PreparedDataset
from overlay.errors import ImageError, WorkError
from overlay.images.codec import decode_image, decode_target, resize_image


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
        return resize_image(
            decode_image(data, target=decode_target(config.size, config.resize)), config.size, config.resize
        )
    except ImageError as error:
        raise WorkError(f"the dataset's image {name} can't be decoded ({error}); prepare it again") from error
