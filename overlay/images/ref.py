"""Reference to an image: where it and its masks lie, and what is known of it before it is read."""

from typing import NamedTuple

import pyarrow as pa

from overlay.archives.entries import Span
from overlay.archives.index import SPAN_TYPE

MANIFEST_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("uri", pa.string()),
        ("member", pa.string()),
        ("masks", pa.list_(pa.string())),
        ("true_label", pa.string()),
        ("reason", pa.string()),
        ("drawn", pa.bool_()),
        ("size", pa.int64()),
        ("version", pa.string()),
        ("spans", pa.list_(SPAN_TYPE)),
    ]
)
"""a row of the manifest of a prediction"""


class ImageRef(NamedTuple):
    """One image to classify."""

    id: str
    """path in the folder or archive that was named, after its name where several were; unique"""
    uri: str
    member: str | None = None
    """name in an archive, or number of the row in a table"""
    masks: tuple[str, ...] = ()
    true_label: str | None = None
    """the nearest folder above the file that is called like a class, or what a table says"""
    reason: str | None = None
    """why it can't be used, where that is known before it is read"""
    drawn: bool = False
    """whether it shows an overlay: it has masks, or was prepared with them"""
    size: int | None = None
    """bytes of the image, where they are known before it is read"""
    version: str | None = None
    """time of the last change, in nanoseconds, of the file, and then of its masks; of the archive or table"""
    spans: tuple[Span, ...] | None = None
    """where the image, and then its masks, lie in the archive; None elsewhere"""
