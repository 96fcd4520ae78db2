"""Arrow schemas of a prepared dataset: rows and rejected inputs."""

import json
from typing import Any

import pyarrow as pa

_STORED_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
IMAGE_COLUMNS = ("image", "mask")
"""columns of image files"""

_COLUMNS = [
    ("id", pa.string()),
    ("image", _STORED_IMAGE),
    ("mask", _STORED_IMAGE),
    ("label", pa.string()),
    ("split", pa.string()),
    ("fold", pa.int32()),
    ("group", pa.string()),
    ("width", pa.int32()),
    ("height", pa.int32()),
    ("frame", pa.int32()),
    ("encoding", pa.string()),
    ("phash", pa.string()),
    ("overlay", pa.string()),
    ("source", pa.string()),
    ("mask_area_share", pa.float64()),
    ("mask_aspect", pa.float64()),
    ("mask_extent", pa.float64()),
    ("mask_compactness", pa.float64()),
    ("mask_lesions", pa.int32()),
]


def _hugging_face() -> dict[str, str]:
    """Return the schema metadata by which Hugging Face datasets recognises image columns (as its ArrowWriter does)."""
    features: dict[str, dict[str, Any]] = {
        name: {"_type": "Image"}
        if name in IMAGE_COLUMNS
        else {"dtype": str(kind).replace("double", "float64"), "_type": "Value"}
        for name, kind in _COLUMNS
    }
    return {"huggingface": json.dumps({"info": {"features": features}})}


DATASET_SCHEMA = pa.schema(_COLUMNS, metadata=_hugging_face())
"""columns of ``data/``

image: image file with its masks drawn on it; mask: their union as a 1-bit PNG of the image's size, null without masks
fold: null without folds; frame: number of the frame in a multi-frame file, counted from 0, null for others
encoding: format of ``image``, such as png or jpeg
mask_*: shape measurements of the united mask (`overlay.images.masks.MaskNumbers`), null for an empty or missing mask
"""

REJECTED_SCHEMA = pa.schema([(name, pa.string()) for name in ("id", "uri", "label", "reason", "error_kind")])
"""columns of ``rejected.parquet``; error_kind: an `ErrorKind`, null for an image dropped for a label conflict"""
