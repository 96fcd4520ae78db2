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
        ("label", pa.string()),
        ("group", pa.string()),
        ("split", pa.string()),
        ("source", pa.string()),
        ("size", pa.int64()),
        ("version", pa.string()),
        ("spans", pa.list_(SPAN_TYPE)),
        ("reason", pa.string()),
        ("drawn", pa.bool_()),
    ]
)
"""columns of a manifest, of `overlay prepare` and `overlay predict` alike: the fields of `ImageRef`"""


class ImageRef(NamedTuple):
    """One input: an image with its masks, or what stands in its place and the reason why it can't be used."""

    id: str
    """path in its source, after the source's name where there are several; unique, the same on every machine"""
    uri: str
    """file, archive or table that holds the image"""
    member: str | None = None
    """name within an archive, or number of the row in a table"""
    masks: tuple[str, ...] = ()
    """files of its masks, or members of the same archive, in the order of their names"""
    label: str | None = None
    """class, by a folder above the file, a table, or a WebDataset's own word"""
    group: str | None = None
    """the user's own group; None where the image is a group of its own"""
    split: str | None = None
    """the user's own split"""
    source: str | None = None
    """name of the source's folder, or of its archive without the ending"""
    size: int | None = None
    """bytes of the image, where they are known before it is read"""
    version: str | None = None
    """time of the last change, in nanoseconds, of the file and then of its masks; of the archive or table"""
    spans: tuple[Span, ...] | None = None
    """where the image, and then its masks, lie in the archive; None elsewhere"""
    reason: str | None = None
    """why it can't be used, where that is known before it is read"""
    drawn: bool = False
    """whether it shows an overlay: it has masks, or was prepared with them"""

    @property
    def name(self) -> str:
        """Name by which its bytes are read: the member of an archive, or else the file."""
        return self.member or self.uri


def ref_from_row(row: dict[str, object]) -> ImageRef:
    """Return the reference in a row of a manifest."""
    values = {name: row.get(name) for name in ImageRef._fields}
    values["masks"] = tuple(row.get("masks") or ())  # type: ignore[arg-type]  # a list, by the schema
    spans = row.get("spans")
    values["spans"] = None if spans is None else tuple(Span(**span) for span in spans)  # type: ignore[attr-defined]
    return ImageRef(**values)  # type: ignore[arg-type]  # types by the schema


def refs_table(refs: list[ImageRef]) -> pa.Table:
    """Return references as rows of a manifest."""
    columns = dict(zip(ImageRef._fields, zip(*refs, strict=True), strict=True))
    columns["spans"] = tuple(None if each is None else [vars(span) for span in each] for each in columns["spans"])
    return pa.Table.from_pydict(columns, schema=MANIFEST_SCHEMA)
