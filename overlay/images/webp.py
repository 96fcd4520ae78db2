"""Lossless WebP: encoder, and decoder for the plain kind, by libwebp without Pillow's canvas for animations.

Pillow decodes every WebP file as an animation, onto a canvas of four channels, which takes up to three times as long
as libwebp's own function for a still image. That function is called through imagecodecs (the extra ``webp``). Without
it, and for all else (lossy, transparency, animation, metadata, every file that is damaged), Pillow decodes, so that
each pixel and each reason is the same. Source of the format: RFC 9649, "WebP Image Format", 2024.
"""

import io
import struct
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from overlay.errors import RequestError

WEBP_SIDE = 16_383
"""pixels of the longest side that WebP can hold: its header has 14 bits for it"""
NEEDS_IMAGECODECS = "encoding is webp, which needs the package imagecodecs to be decoded fast: install overlay[webp]"
_HEADER = struct.Struct("<4sI4s4sIBI")  # RIFF, size, WEBP, VP8L, size, signature, dimensions; RFC 9649, 2.6 and 3.4
_SIGNATURE = 0x2F


def check_webp() -> None:
    """Check that WebP can be decoded without Pillow.

    Raises:
        RequestError: imagecodecs is missing.
    """
    if find_spec("imagecodecs") is None:
        raise RequestError(NEEDS_IMAGECODECS)


def encode_webp(image: NDArray[np.uint8]) -> bytes:
    """Return an image, uint8 (height, width, 3) with sides of at most ``WEBP_SIDE``, as a WebP file; lossless.

    Effort 25 of 100 with method 1 of 6: for overlays on ultrasound, less takes 8 % more bytes and is decoded more
    slowly; more takes up to four times as long, for at most 9 % fewer bytes and no faster decoding.
    """
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "WEBP", lossless=True, quality=25, method=1)
    return stream.getvalue()


def decode_plain_webp(data: bytes, max_pixels: int) -> NDArray[np.uint8] | None:
    """Return the pixels of a lossless WebP file of at most ``max_pixels`` pixels, uint8 (height, width, 3).

    None for any other file, also for a damaged one, and without imagecodecs: Pillow decides what it is.
    """
    if len(data) < _HEADER.size or data[:4] != b"RIFF":
        return None
    _, whole, form, chunk, length, signature, dimensions = _HEADER.unpack_from(data)
    if (form, chunk, signature) != (b"WEBP", b"VP8L", _SIGNATURE) or dimensions >> 28:  # transparency or a version
        return None
    if whole + 8 != len(data) or 20 + length + length % 2 != len(data):  # cut off, or followed by other chunks
        return None
    if ((dimensions & WEBP_SIDE) + 1) * ((dimensions >> 14 & WEBP_SIDE) + 1) > max_pixels:
        return None
    try:
        from imagecodecs import webp_decode

        pixels: NDArray[np.uint8] = webp_decode(data)
    except Exception:  # ImportError without the package, WebpError of a damaged file
        return None
    return pixels
