"""Decoding of inputs: from bytes to the pixels that a model sees, or the reason why not.

`GroupDecoder` decodes a group of a manifest, for predictions; `decode_ref` one image, for every job, for `load_model`
and for the contact sheets. Pillow and numpy only, so that data tasks start quickly.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Protocol, TypedDict

import numpy as np
from numpy.typing import NDArray

from overlay.config import MAX_PIXELS, Limits, OverlayStyle, ResizeRule
from overlay.errors import ImageError, one_line
from overlay.images.codec import decode_target, resize_image
from overlay.images.ref import ImageRef
from overlay.images.render import render_overlay
from overlay.sources.manifest import Manifest
from overlay.sources.read_plan import ReadUnit
from overlay.sources.reader import UNREADABLE, GroupRequest, Reader, group_requests
from overlay.storage.path import Read

_SAMPLED_UNITS = 16


class Look(Protocol):
    """What a model sees of an image; a model's card has it."""

    @property
    def size(self) -> int: ...  # noqa: D102
    @property
    def resize(self) -> ResizeRule: ...  # noqa: D102
    @property
    def overlay(self) -> OverlayStyle | None: ...  # noqa: D102


@dataclass(frozen=True)
class StoredLook:
    """What a model sees of an image of a prepared dataset, on which masks are drawn already."""

    size: int
    resize: ResizeRule
    overlay: OverlayStyle | None = None


class DecodedBatch(TypedDict):
    """Decoded images, (n,) rows."""

    row: NDArray[np.int64]
    """(n,) row of the manifest"""
    pixels: NDArray[np.uint8]
    """(n, size, size, 3)"""
    reason: NDArray[np.str_]
    """(n,) why there are no pixels; empty where there are"""
    bytes: NDArray[np.int64]
    """(n,) bytes read"""
    seconds_read: NDArray[np.float64]
    """(n,) by the clock, since reading mostly waits"""
    seconds_decode: NDArray[np.float64]
    """(n,) of the processor"""


@dataclass(frozen=True)
class DecodeLimits:
    """Largest inputs that are decoded."""

    max_pixels: int = MAX_PIXELS
    """pixels of one image or mask"""
    member_bytes: int = Limits.member_bytes
    """bytes of one file or member of an archive"""


@dataclass(frozen=True)
class GroupDecoder:
    """Reads, decodes, draws and resizes the images of one group of a manifest; works in any process."""

    manifest: Manifest
    look: Look
    limits: DecodeLimits

    def __call__(self, request: GroupRequest) -> DecodedBatch:
        """Decode a group; what can't be decoded becomes a row with its reason."""
        refs = self.manifest.read_group(request.group)
        positions = range(len(refs)) if request.positions is None else request.positions
        wanted = [refs[position] for position in positions]
        pixels = np.zeros((len(wanted), self.look.size, self.look.size, 3), np.uint8)
        reasons = [ref.reason or request.fault or "" for ref in wanted]
        read_bytes = np.zeros(len(wanted), np.int64)
        seconds = np.zeros((2, len(wanted)))
        contents = repeat(None) if request.contents is None else request.contents
        with Reader(self.limits.member_bytes) as reader:
            for index, (ref, content) in enumerate(zip(wanted, contents, strict=False)):
                if reasons[index]:
                    continue
                read = _CountedRead(reader.of(ref, content))
                began = time.thread_time()
                try:
                    pixels[index] = decode_ref(ref, self.look, self.limits.max_pixels, read)
                except ImageError as error:
                    reasons[index] = str(error)
                except OSError as error:
                    reasons[index] = f"{UNREADABLE}: {one_line(error)}"
                except MemoryError:
                    reasons[index] = "more than the memory holds"
                read_bytes[index] = read.bytes
                seconds[:, index] = read.seconds, time.thread_time() - began - read.processor_seconds
        return DecodedBatch(
            row=self.manifest.rows_of(request.group).start + np.array(positions, np.int64),
            pixels=pixels,
            reason=np.array(reasons, dtype=np.str_),
            bytes=read_bytes,
            seconds_read=seconds[0],
            seconds_decode=seconds[1],
        )


def decode_ref(ref: ImageRef, look: Look, max_pixels: int, read: Read) -> NDArray[np.uint8]:
    """Return what a model sees of an image, uint8 (size, size, 3): decoded, its masks drawn on it, resized.

    Raises:
        ImageError: the image or a mask can't be used.
        OSError: a file can't be read for a cause that may pass.
    """
    style = look.overlay or OverlayStyle(style="none")
    drawn = render_overlay(ref, style, max_pixels=max_pixels, target=decode_target(look.size, look.resize), read=read)
    return resize_image(drawn, look.size, look.resize)


def sample_pixels(decoder: GroupDecoder, units: Sequence[ReadUnit], count: int = 128) -> NDArray[np.uint8]:
    """Decode at most ``count`` images from all over the inputs, (n, size, size, 3); broken ones are left out."""
    several = units[:: max(1, len(units) // _SAMPLED_UNITS)]
    found = []
    for unit in several:
        batch = decoder(next(group_requests(unit, decoder.manifest)))
        found.append(batch["pixels"][batch["reason"] == ""][: -(-count // len(several))])
    return np.concatenate(found)[:count]


class _CountedRead:
    """A function that reads, and counts bytes and seconds."""

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
