"""Arrow schemas of a prepared dataset: rows, manifest, rejected inputs."""

import json

import pyarrow as pa

from overlay.archives.index import SPAN_TYPE

_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


_COLUMNS = [
    ("id", pa.string()),
    ("image", _IMAGE),
    ("label", pa.string()),
    ("split", pa.string()),
    ("fold", pa.int32()),
    ("group", pa.string()),
    ("width", pa.int32()),
    ("height", pa.int32()),
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
    """Return the metadata by which Hugging Face `datasets` knows an image column (its arrow_writer writes the same)."""
    values = {name: {"dtype": str(kind).replace("double", "float64"), "_type": "Value"} for name, kind in _COLUMNS}
    return {"huggingface": json.dumps({"info": {"features": values | {"image": {"_type": "Image"}}}})}


DATASET_SCHEMA = pa.schema(_COLUMNS, metadata=_hugging_face())
"""a row of ``data/``; the mask's numbers are null where there was no mask, and so is the fold without folds"""


DATASET_MANIFEST_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("uri", pa.string()),
        ("member", pa.string()),
        ("masks", pa.list_(pa.string())),
        ("label", pa.string()),
        ("group", pa.string()),
        ("split", pa.string()),
        ("source", pa.string()),
        ("path", pa.string()),
        ("spans", pa.list_(SPAN_TYPE)),
    ]
)
"""an image as it was listed; group and split are those of split.group_by, or the id, and of split.column, or null"""


REJECTED_SCHEMA = pa.schema([(name, pa.string()) for name in ("id", "uri", "label", "reason")])
