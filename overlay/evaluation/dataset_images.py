"""Images of a prepared dataset by id: for the report, and for the calibration of int8."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from overlay.dataset.prepared import PreparedDataset
from overlay.dataset.rows import open_tables, split_filter
from overlay.images.codec import decode_image
from overlay.images.resize import decode_target, resize_image
from overlay.models.model_file import ModelCard

CALIBRATION_IMAGES = 128
"""most training images that int8 is calibrated with"""


def read_encoded(dataset: PreparedDataset, ids: Sequence[str]) -> dict[str, bytes]:
    """Read the encoded bytes of some images, by their ids."""
    wanted = pc.field("id").isin(pa.array(ids, pa.string()))
    found = open_tables(dataset).to_table(columns=["id", "image"], filter=wanted)
    return {row["id"]: row["image"]["bytes"] for row in found.to_pylist()}


def read_calibration_pixels(dataset: PreparedDataset, card: ModelCard) -> NDArray[np.uint8]:
    """Decode at most `CALIBRATION_IMAGES` training images, from all over the dataset, as (n, size, size, 3)."""
    ids = open_tables(dataset).to_table(columns=["id"], filter=split_filter(dataset, "train"))["id"].to_pylist()
    target, max_pixels = decode_target(card.size, card.resize), dataset.card.request.max_pixels
    images = read_encoded(dataset, ids[:: -(-len(ids) // CALIBRATION_IMAGES)]).values()
    decoded = (decode_image(data, max_pixels=max_pixels, target=target) for data in images)
    return np.stack([resize_image(image, card.size, card.resize) for image in decoded])
