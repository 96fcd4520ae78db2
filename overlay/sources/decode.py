"""From a group of a manifest to pixels: the part of a prediction that needs no model.

Pillow and numpy only, so that data tasks start quickly.
"""

import time
from collections.abc import Sequence
from itertools import repeat
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from overlay.config import OverlayStyle, ResizeRule
from overlay.engines.base import Columns
from overlay.errors import ImageError, one_line
from overlay.images.codec import decode_target, resize_image
from overlay.images.render import render_overlay
from overlay.sources.manifest import Manifest
from overlay.sources.read_plan import ReadUnit
from overlay.sources.reader import UNREADABLE, GroupReader, Reader, rows_of
from overlay.storage.path import Read

_SAMPLED_UNITS = 16


class DecodeSettings(Protocol):
    """How a model wants its images; what a model's card says."""

    @property
    def size(self) -> int: ...  # noqa: D102
    @property
    def resize(self) -> ResizeRule: ...  # noqa: D102
    @property
    def overlay(self) -> OverlayStyle | None: ...  # noqa: D102


def decode_group(
    wanted: dict[str, Any], first_row: int, manifest: GroupReader, card: DecodeSettings, max_pixels: int
) -> Columns:
    """Read, decode, draw and resize the images of one group, named as `overlay.sources.reader.rows_of` does.

    Returns ``row`` int64 (n,), ``pixels`` uint8 (n, size, size, 3), ``reason`` str (n,), empty where the pixels are an
    image, ``bytes`` int64 (n,), and ``seconds_read`` and ``seconds_decode`` float64 (n,): time by the clock for
    reading, which mostly waits, and of the processor for the rest.
    """
    images = manifest.read_group(wanted["group"])
    positions = list(range(len(images))) if wanted["positions"] is None else wanted["positions"]
    pixels = np.zeros((len(positions), card.size, card.size, 3), np.uint8)
    reasons = [images[position]["reason"] or wanted["fault"] or "" for position in positions]
    numbers = np.zeros((3, len(positions)))
    style = card.overlay or OverlayStyle(style="none")
    target = decode_target(card.size, card.resize)
    contents = repeat(None) if wanted["contents"] is None else wanted["contents"]
    with Reader() as reader:
        for index, (position, read_already) in enumerate(zip(positions, contents, strict=False)):
            image = images[position]
            if reasons[index]:
                continue
            read = _Counted(reader.of(image, read_already))
            began = time.thread_time()
            try:
                name = image["member"] or image["uri"]
                drawn = render_overlay(name, image["masks"], style, max_pixels, target, read)
                pixels[index] = resize_image(drawn, card.size, card.resize)
            except ImageError as error:
                reasons[index] = str(error)
            except OSError as error:
                reasons[index] = f"{UNREADABLE}: {one_line(error)}"
            except MemoryError:
                reasons[index] = "more than the memory holds"
            numbers[:, index] = read.bytes, read.seconds, time.thread_time() - began - read.processor_seconds
    return {
        "row": first_row + np.array(positions),
        "pixels": pixels,
        "reason": np.array(reasons, dtype=np.str_),
        "bytes": numbers[0].astype(np.int64),
        "seconds_read": numbers[1],
        "seconds_decode": numbers[2],
    }


def sample_pixels(
    manifest: Manifest, units: Sequence[ReadUnit], card: DecodeSettings, max_pixels: int, count: int = 128
) -> NDArray[np.uint8]:
    """Decode at most ``count`` images from all over the inputs, (n, size, size, 3); broken ones are left out."""
    several = units[:: max(1, len(units) // _SAMPLED_UNITS)]
    found = []
    for unit in several:
        wanted = next(rows_of(unit, manifest))
        block = decode_group(wanted, 0, manifest, card, max_pixels)
        found.append(block["pixels"][block["reason"] == ""][: -(-count // len(several))])
    return np.concatenate(found)[:count]


class _Counted:
    """A function that reads, and counts what it read."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self.bytes = 0
        self.seconds = self.processor_seconds = 0.0

    def __call__(self, name: str) -> bytes:
        began, processor = time.perf_counter(), time.thread_time()
        try:
            data = self._read(name)
        finally:
            self.seconds += time.perf_counter() - began
            self.processor_seconds += time.thread_time() - processor
        self.bytes += len(data)
        return data
