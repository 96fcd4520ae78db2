"""Decoding of inputs: from image references to a model's input pixels, or to an error reason.

`GroupDecoder` decodes a group of a manifest for predictions; `decode_ref` decodes one image for any job and for
`load_model`. Pillow and numpy only, so that data tasks start quickly.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Protocol, TypedDict

import numpy as np
from numpy.typing import NDArray

from overlay.config import MAX_PIXELS, Limits, OverlayStyle, ResizeRule
from overlay.errors import ImageError, Reason
from overlay.images.decoder_pool import DEFAULT_LIMITS, decoder_pool
from overlay.images.decoder_process import ProcessLimits
from overlay.images.ref import ImageRef, ReadFunction
from overlay.images.render import RenderOptions, read_contents, render_overlay
from overlay.images.resize import decode_target, resize_image
from overlay.sources.manifest import Manifest
from overlay.sources.read_plan import ReadUnit
from overlay.sources.reader import GroupRequest, Reader, group_requests, unreadable

_SAMPLED_UNITS = 16


class Look(Protocol):
    """Preprocessing of a model: size in pixels, resize rule, overlay, bounded side; a model's card has these fields."""

    @property
    def size(self) -> int: ...  # noqa: D102
    @property
    def resize(self) -> ResizeRule: ...  # noqa: D102
    @property
    def overlay(self) -> OverlayStyle | None: ...  # noqa: D102
    @property
    def max_side(self) -> int | None: ...  # noqa: D102


@dataclass(frozen=True)
class StoredLook:
    """Preprocessing as plain data; by default of images of a prepared dataset, already reduced and overlaid."""

    size: int
    resize: ResizeRule
    overlay: OverlayStyle | None = None
    max_side: int | None = None

    @classmethod
    def of(cls, look: Look) -> "StoredLook":
        """Return a preprocessing without the rest of a model's card, which imports torch where it is unpickled."""
        return cls(look.size, look.resize, look.overlay, look.max_side)


class DecodedBatch(TypedDict):
    """Batch of n decoded images."""

    row: NDArray[np.int64]
    """(n,) row of the manifest"""
    pixels: NDArray[np.uint8]
    """(n, size, size, 3)"""
    reason: NDArray[np.str_]
    """(n,) reason why an image has no pixels; empty where it has"""
    error_kind: NDArray[np.str_]
    """(n,) `ErrorKind` of the reason; empty where there is none"""
    bytes: NDArray[np.int64]
    """(n,) bytes read"""
    seconds_read: NDArray[np.float64]
    """(n,) wall-clock time of reading, which mostly waits"""
    seconds_decode: NDArray[np.float64]
    """(n,) CPU time of decoding, drawing and resizing"""


@dataclass(frozen=True)
class DecodeLimits:
    """Limits on the size of inputs, and on their grey values."""

    max_pixels: int = MAX_PIXELS
    """pixels of one image or mask"""
    member_bytes: int = Limits.member_bytes
    """bytes of one file or member of an archive"""
    bits: int | None = None
    """see `overlay.images.depth.to_8_bit`"""
    process: ProcessLimits = DEFAULT_LIMITS
    """memory and time of decoding one image with its masks"""


@dataclass(frozen=True)
class GroupDecoder:
    """Function that reads, decodes, draws and resizes the images of one group of a manifest, in any process."""

    manifest: Manifest
    look: StoredLook
    limits: DecodeLimits

    def __call__(self, request: GroupRequest) -> DecodedBatch:
        """Decode a group in a decoder process; an image that can't be read or decoded is a row with a reason.

        Raises:
            OSError: the manifest can't be read.
        """
        refs = self.manifest.read_group(request.group)
        positions = range(len(refs)) if request.positions is None else request.positions
        wanted = [refs[position] for position in positions]
        pixels = np.zeros((len(wanted), self.look.size, self.look.size, 3), np.uint8)
        reasons: list[Reason | None] = [ref.reason or request.fault for ref in wanted]
        read_bytes = np.zeros(len(wanted), np.int64)
        seconds = np.zeros((2, len(wanted)))
        contents = repeat(None) if request.contents is None else request.contents
        pool = decoder_pool(self.limits.process)
        with Reader(self.limits.member_bytes) as reader:
            for index, (ref, content) in enumerate(zip(wanted, contents, strict=False)):
                if reasons[index]:
                    continue
                read = _CountedRead(reader.read_function(ref, content))
                try:
                    files = read_contents(ref, read)
                    decoded = pool.run(_decode_files, ref, self.look, self.limits, files)
                    pixels[index], seconds[1, index] = decoded
                except ImageError as error:
                    reasons[index] = error.reason
                except OSError as error:
                    reasons[index] = unreadable(error)
                read_bytes[index], seconds[0, index] = read.bytes, read.seconds
        return DecodedBatch(
            row=self.manifest.rows_of_group(request.group).start + np.array(positions, np.int64),
            pixels=pixels,
            reason=np.array([reason or "" for reason in reasons], dtype=np.str_),
            error_kind=np.array([reason.kind if reason else "" for reason in reasons], dtype=np.str_),
            bytes=read_bytes,
            seconds_read=seconds[0],
            seconds_decode=seconds[1],
        )


def _decode_files(
    ref: ImageRef, look: StoredLook, limits: DecodeLimits, files: Mapping[str, bytes]
) -> NDArray[np.uint8]:
    return decode_ref(ref, look, limits.max_pixels, files.__getitem__, limits.bits)


def decode_ref(
    ref: ImageRef, look: Look, max_pixels: int, read: ReadFunction, bits: int | None = None
) -> NDArray[np.uint8]:
    """Return a model's input of an image, uint8 (size, size, 3): decoded, its masks drawn on it, resized.

    Raises:
        ImageError: the image or a mask is damaged or too large, or a mask has another size; the message is the reason.
        OSError: a file can't be read for a transient cause.
    """
    style = look.overlay or OverlayStyle(style="none")
    options = RenderOptions(style, max_pixels, bits, max_side=look.max_side)
    drawn = render_overlay(ref, options, decode_target(look.size, look.resize), read)
    return resize_image(drawn, look.size, look.resize)


def sample_pixels(decoder: GroupDecoder, units: Sequence[ReadUnit], count: int = 128) -> NDArray[np.uint8]:
    """Decode at most ``count`` images, evenly from the inputs, uint8 (n, size, size, 3), without damaged ones.

    They calibrate int8 quantisation.
    """
    several = units[:: max(1, len(units) // _SAMPLED_UNITS)]
    found = []
    for unit in several:
        batch = decoder(next(group_requests(unit, decoder.manifest)))
        found.append(batch["pixels"][batch["reason"] == ""][: -(-count // len(several))])
    return np.concatenate(found)[:count]


class _CountedRead:
    """Wrapper of a read function that counts bytes and wall-clock seconds."""

    def __init__(self, read: ReadFunction) -> None:
        self._read = read
        self.bytes = 0
        self.seconds = 0.0

    def __call__(self, name: str) -> bytes:
        began = time.perf_counter()
        try:
            data = self._read(name)
        finally:
            self.seconds += time.perf_counter() - began
        self.bytes += len(data)
        return data
