"""Rows of a prepared dataset in the views of a mask audit, beside the rows themselves."""

from functools import partial
from typing import TypedDict

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from overlay.config import Input
from overlay.dataset.prepared import PreparedDataset
from overlay.errors import ImageError, WorkError
from overlay.evaluation.audit_views import AuditPlan, decode_views
from overlay.sources.split_reading import SplitReading, decode_rows

AS_STORED = "stored"
"""value of the column ``view`` for the image as the dataset stores it"""


class ViewBatch(TypedDict):
    """Batch of decoded images, each as stored, and those of the audit in each of its views as well."""

    id: NDArray[np.str_]
    view: NDArray[np.str_]
    pixels: NDArray[np.uint8]
    """(n, size, size, 3)"""
    reason: NDArray[np.str_]
    """always empty, since every image of a dataset can be decoded"""
    error_kind: NDArray[np.str_]
    """always empty"""


def viewed_images(
    dataset: PreparedDataset, split: str, config: Input, batch_size: int, plan: AuditPlan
) -> SplitReading:
    """Return the reading of a split's images and their views, as batches with the columns of `ViewBatch`."""
    decode = partial(decode_viewed, config=config, plan=plan)
    return SplitReading.of(dataset, split, ("id", "image", "mask", "label"), decode, batch_size)


def decode_viewed(rows: pa.Table, config: Input, plan: AuditPlan) -> ViewBatch:
    """Decode and resize rows of a prepared dataset, and the audit's views of those that it shows.

    Raises:
        WorkError: an image or a mask can't be decoded.
    """
    stored = decode_rows(rows, config, plan.max_pixels)
    ids, names, pixels = [stored["id"]], [np.full(len(rows), AS_STORED)], [stored["pixels"]]
    for row in rows.select(["id", "image", "mask"]).to_pylist():
        if row["id"] in plan.ids:
            mask = None if row["mask"] is None else row["mask"]["bytes"]
            try:
                pixels.append(decode_views(row["image"]["bytes"], mask, plan, config))
            except ImageError as error:
                raise WorkError(f"the dataset's mask of {row['id']} can't be decoded ({error})") from error
            ids.append(np.full(len(plan.views), row["id"]))
            names.append(np.array(plan.views))
    views = np.concatenate(names)
    return ViewBatch(
        id=np.concatenate(ids),
        view=views,
        pixels=np.concatenate(pixels),
        reason=np.full(len(views), ""),
        error_kind=np.full(len(views), ""),
    )
