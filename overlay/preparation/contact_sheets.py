"""Contact sheets of a prepared dataset: thumbnails of each class, and near-duplicates side by side."""

import hashlib
import heapq
import io
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import pyarrow as pa
from PIL import Image, ImageDraw, ImageFont

from overlay.duplicates.near_duplicates import NearDuplicates
from overlay.images.codec import decode_image
from overlay.storage.atomic import write_atomically
from overlay.storage.parquet import open_parquet
from overlay.storage.path import StoragePath

FileOfRow = Callable[[int], Path | StoragePath]
"""from a row index to the Parquet file that holds the image"""

_CELL_WIDTH, _CELL_HEIGHT = 168, 132
_GAP = 8
_ROWS = 10_000  # in memory at one time, as Python objects
_ACCEPTED_PIXELS = 2**62  # images of the dataset have passed the user's limit already
_LINE = 18
_TITLE_SIZE = 18
_PAPER, _INK, _SOFT, _WARNING, _FRAME = "#ffffff", "#1a1a1a", "#6b6b6b", "#c62828", "#f0f0f0"


@dataclass(frozen=True)
class Thumbnail:
    """Image file and its caption."""

    data: bytes
    caption: str


@dataclass(frozen=True)
class ThumbnailPair:
    """Two near-duplicates side by side."""

    first: Thumbnail
    second: Thumbnail
    title: str
    conflict: bool
    """whether the labels differ"""


@dataclass(frozen=True)
class _Font:
    """Font of one line of text."""

    color: str
    size: int = 13
    bold: bool = False


def contact_sheet(classes: Mapping[str, Sequence[Thumbnail]], across: int = 8) -> bytes:
    """Return a PNG of the thumbnails under each heading, ``across`` thumbnails in a row."""
    heading = _LINE + 14
    rows = {name: -(-len(pictures) // across) for name, pictures in classes.items()}
    cell = _CELL_HEIGHT + _LINE + _GAP
    height = _GAP + sum(heading + count * cell for count in rows.values())
    sheet = Image.new("RGB", (_GAP + across * (_CELL_WIDTH + _GAP), height), _PAPER)
    top = _GAP
    for name, pictures in classes.items():
        _write_line(sheet, (_GAP, top + 4), name, _Font(_INK, _TITLE_SIZE))
        for place, picture in enumerate(pictures):
            left = _GAP + place % across * (_CELL_WIDTH + _GAP)
            _paste(sheet, left, top + heading + place // across * cell, picture)
        top += heading + rows[name] * cell
    return _png(sheet)


def duplicates_sheet(pairs: Sequence[ThumbnailPair], heading: str, across: int = 3) -> bytes:
    """Return a PNG of near-duplicates side by side, ``across`` pairs in a row; label conflicts have a red frame."""
    width, height = 2 * _CELL_WIDTH + 3 * _GAP, _CELL_HEIGHT + 2 * _LINE + 3 * _GAP
    top = _LINE + 2 * _GAP + 4
    rows = -(-len(pairs) // across)
    sheet = Image.new("RGB", (_GAP + across * (width + _GAP), top + rows * (height + _GAP)), _PAPER)
    _write_line(sheet, (_GAP, _GAP), heading, _Font(_INK, _TITLE_SIZE))
    drawing = ImageDraw.Draw(sheet)
    for place, pair in enumerate(pairs):
        left, upper = _GAP + place % across * (width + _GAP), top + place // across * (height + _GAP)
        color = _WARNING if pair.conflict else _FRAME
        drawing.rectangle((left, upper, left + width - 1, upper + height - 1), outline=color, width=2)
        font = _Font(_WARNING if pair.conflict else _INK, bold=pair.conflict)
        _write_line(sheet, (left + _GAP, upper + 5), pair.title, font)
        for number, picture in enumerate((pair.first, pair.second)):
            _paste(sheet, left + _GAP + number * (_CELL_WIDTH + _GAP), upper + _LINE + 2 * _GAP - 2, picture)
    return _png(sheet)


def draw_duplicates(duplicates: NearDuplicates, file_of: FileOfRow, place: Path | StoragePath, most: int = 30) -> None:
    """Write ``duplicates.png`` with at most ``most`` pairs: label conflicts first, then others, evenly by distance.

    ``file_of`` takes row indices of ``duplicates``. Without pairs no file is written.

    Raises:
        OSError: an image can't be read, or the file can't be written.
    """
    if not len(duplicates.pairs):
        return
    order, conflicts = duplicates.order_by_conflict(), int(duplicates.conflicts.sum())
    rest = order[conflicts:]
    wanted = min(most - min(most, conflicts), len(rest))
    chosen = [*order[: min(most, conflicts)], *rest[np.linspace(0, len(rest) - 1, wanted).round().astype(int)]]
    ids = {i: str(duplicates.ids[i]) for pair in chosen for i in duplicates.endpoints(pair)}
    images = _read_images({id: file_of(i) for i, id in ids.items()})
    pairs = []
    for pair in chosen:
        first, second = (
            Thumbnail(images[ids[i]], f"{duplicates.labels[i]}: {PurePosixPath(ids[i]).name}")
            for i in duplicates.endpoints(pair)
        )
        conflict = bool(duplicates.conflicts[pair])
        title = duplicates.describe_distance(int(pair)) + (", different labels" if conflict else "")
        pairs.append(ThumbnailPair(first, second, title, conflict))
    heading = f"{len(chosen)} of {len(duplicates.pairs)} pairs of near-duplicates; {conflicts} have different labels"
    _write_picture(duplicates_sheet(pairs, heading), place)


def draw_classes(images: pa.Table, file_of: FileOfRow, place: Path | StoragePath, most: int = 16) -> None:
    """Write ``contact_sheet.png`` with at most ``most`` images of each class: a pseudorandom sample by their ids.

    ``images`` has the columns ``id`` and ``label``; ``file_of`` takes its row indices.

    Raises:
        OSError: an image can't be read, or the file can't be written.
    """
    sizes, drawn = Counter[str](), dict[str, list[tuple[bytes, str, int]]]()
    position = 0
    for batch in images.select(["id", "label"]).to_batches(_ROWS):
        fresh: dict[str, list[tuple[bytes, str, int]]] = {}
        for id, label in zip(batch["id"].to_pylist(), batch["label"].to_pylist(), strict=True):
            fresh.setdefault(label, []).append((hashlib.sha256(id.encode()).digest(), id, position))
            position += 1
        for label, members in fresh.items():
            sizes[label] += len(members)
            drawn[label] = heapq.nsmallest(most, [*drawn.get(label, ()), *members])
    chosen = {label: sorted((id, i) for _, id, i in drawn[label]) for label in sorted(drawn)}
    data = _read_images({id: file_of(i) for members in chosen.values() for id, i in members})
    rows = {
        f"{label}: {len(members)} of {sizes[label]} images": [
            Thumbnail(data[id], PurePosixPath(id).name) for id, _ in members
        ]
        for label, members in chosen.items()
    }
    _write_picture(contact_sheet(rows), place)


def _read_images(files: Mapping[str, Path | StoragePath]) -> dict[str, bytes]:
    images = {}
    for file in sorted(set(files.values()), key=str):
        for batch in open_parquet(file).iter_batches(batch_size=8, columns=["id", "image"]):
            for row in batch.to_pylist():
                if row["id"] in files:
                    images[row["id"]] = row["image"]["bytes"]
    return images


def _write_picture(data: bytes, place: Path | StoragePath) -> None:
    with write_atomically(place) as temporary:
        temporary.write_bytes(data)


def _paste(sheet: Image.Image, left: int, top: int, picture: Thumbnail) -> None:
    image = Image.fromarray(decode_image(picture.data, max_pixels=_ACCEPTED_PIXELS, target=_CELL_WIDTH))
    image.thumbnail((_CELL_WIDTH, _CELL_HEIGHT))
    ImageDraw.Draw(sheet).rectangle((left, top, left + _CELL_WIDTH - 1, top + _CELL_HEIGHT - 1), _FRAME)
    sheet.paste(image, (left + (_CELL_WIDTH - image.width) // 2, top + (_CELL_HEIGHT - image.height) // 2))
    _write_line(sheet, (left, top + _CELL_HEIGHT + 1), picture.caption, _Font(_SOFT), width=_CELL_WIDTH)


def _write_line(
    sheet: Image.Image, corner: tuple[int, int], text: str, font: _Font, *, width: int | None = None
) -> None:
    """Write one line of text; longer than ``width`` pixels, it is shortened after its first 12 characters."""
    drawn = ImageFont.load_default(font.size)
    shown, end = text, text[12:]
    while width is not None and end and drawn.getlength(shown) > width:
        end = end[1:]
        shown = f"{text[:12]}…{end}"
    ImageDraw.Draw(sheet).text(corner, shown, font.color, drawn, stroke_width=0.3 if font.bold else 0)


def _png(sheet: Image.Image) -> bytes:
    stream = io.BytesIO()
    sheet.save(stream, "PNG", optimize=True)
    return stream.getvalue()
