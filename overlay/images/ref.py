"""Image reference: location of an image and its masks, label, group, and size; and its Arrow schema (manifest)."""

from collections.abc import Callable
from typing import NamedTuple

import pyarrow as pa

from overlay.archives.entries import Span
from overlay.archives.index import SPAN_TYPE
from overlay.errors import ErrorKind, Reason

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
        ("error_kind", pa.string()),
        ("drawn", pa.bool_()),
    ]
)
"""columns of a manifest, of all verbs: the fields of `ImageRef`, and the kind of its reason"""

ReadFunction = Callable[[str], bytes]
"""from the name of an image or a mask, as its `ImageRef` has it, to its bytes; raises ImageError or OSError"""


class ImageRef(NamedTuple):
    """Reference to one input: an image with its masks, or an input that can't be used and the reason."""

    id: str
    """path in its source, after the source's name where there are several; unique, and equal on every machine"""
    uri: str
    """file, archive or table that holds the image"""
    member: str | None = None
    """name within an archive, or row number in a table; with ``#3`` the frame of a file of several, counted from 0"""
    masks: tuple[str, ...] = ()
    """files of its masks, or members of the same archive, sorted by name"""
    label: str | None = None
    """class, from a folder above the file, a table, or a member of a WebDataset"""
    group: str | None = None
    """group by ``split.group_by``; None where the image is a group of its own"""
    split: str | None = None
    """split by ``split.column`` or the source's folders: train, val, test, or "fold 3" """
    source: str | None = None
    """name of the source: its folder, or its archive without the extension"""
    size: int | None = None
    """size of the image in bytes, where it is known before reading"""
    version: str | None = None
    """times of modification, in nanoseconds, of the file and of its masks, or of the archive or table"""
    spans: tuple[Span, ...] | None = None
    """positions of the image, and then of its masks, in the archive; None for files and tables"""
    reason: Reason | None = None
    """why it can't be used, where that is known before reading"""
    drawn: bool = False
    """whether it shows an overlay: it has masks, or was prepared with them"""

    @property
    def name(self) -> str:
        """Name by which `ReadFunction` reads the image: the member of an archive, or else the file."""
        if self.frame is None:
            return self.member or self.uri
        return self.uri if self.spans is None else (self.member or "").rpartition("#")[0]

    @property
    def frame(self) -> int | None:
        """Number of the frame in a file of several frames, counted from 0; None for others."""
        _, mark, number = (self.member or "").rpartition("#")
        return int(number) if mark and number.isdigit() else None

    @property
    def file_id(self) -> str:
        """The id without the number of the frame."""
        return self.id if self.frame is None else self.id.rpartition("#")[0]


def ref_from_row(row: dict[str, object]) -> ImageRef:
    """Return the image reference of a row of a manifest; fields of missing columns are None."""
    values = {name: row.get(name) for name in ImageRef._fields}
    values["masks"] = tuple(row.get("masks") or ())  # type: ignore[arg-type]  # a list, by the schema
    spans = row.get("spans")
    reason = row.get("reason")
    values["reason"] = None if reason is None else Reason(str(reason), ErrorKind(str(row["error_kind"])))
    values["spans"] = None if spans is None else tuple(Span(**span) for span in spans)  # type: ignore[attr-defined]
    return ImageRef(**values)  # type: ignore[arg-type]  # types by the schema


def refs_table(refs: list[ImageRef]) -> pa.Table:
    """Return image references, at least one, as a table with the schema ``MANIFEST_SCHEMA``."""
    columns = dict(zip(ImageRef._fields, zip(*refs, strict=True), strict=True))
    columns["spans"] = tuple(None if each is None else [vars(span) for span in each] for each in columns["spans"])
    columns["error_kind"] = tuple(None if each is None else each.kind for each in columns["reason"])
    return pa.Table.from_pydict(columns, schema=MANIFEST_SCHEMA)
