"""PNG decoder for the plain kind: 8 bits, grey or colour, nothing but pixels; by libspng, faster than Pillow's.

Ultrasound images and the images of a prepared dataset are of this kind. libspng takes about 0.7 of Pillow's time, and
releases Python's lock as Pillow does. All else is left to Pillow: transparency, palettes, 16 bits, orientation, and
every file that is damaged, so that each reason and each pixel is the same as without it.
"""

import struct
from collections.abc import Iterator

import numpy as np
import pyspng
from isal import isal_zlib
from numpy.typing import NDArray

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PLAIN = {b"IHDR", b"IDAT", b"IEND", b"gAMA", b"cHRM", b"sRGB", b"pHYs", b"tIME", b"bKGD"}
"""chunks that change no pixel in Pillow; tRNS, eXIf, sBIT, texts (which may hold EXIF) and APNG's do"""
_GREY, _COLOUR = 0, 2  # numbers of the PNG specification (W3C 2025), section 11.2.1
_HEADER = struct.Struct(">IIBBBBB")


def decode_plain_png(data: bytes, max_pixels: int) -> NDArray[np.uint8] | None:
    """Return the pixels of a plain PNG file of at most ``max_pixels`` pixels, uint8 (height, width, 3).

    None for any other file, also for a damaged one: Pillow decides what it is.
    """
    if not data.startswith(SIGNATURE) or len(data) < 33:
        return None
    width, height, depth, kind, _, _, interlaced = _HEADER.unpack_from(data, 16)
    if depth != 8 or kind not in (_GREY, _COLOUR) or interlaced or not 0 < width * height <= max_pixels:
        return None
    if not all(chunk in _PLAIN for chunk in _whole_chunks(data)):
        return None
    try:
        pixels: NDArray[np.uint8] = pyspng.load(data, "RGB")
    except Exception:  # RuntimeError today, of a damaged file
        return None
    return pixels


def _whole_chunks(data: bytes) -> Iterator[bytes]:
    """Yield the type of each chunk up to IEND, and an empty one for a chunk that is damaged or cut off.

    libspng itself looks at no checksum, neither of a chunk nor of the pixels.
    """
    view, position = memoryview(data), len(SIGNATURE)
    while True:
        end = position + 8 + int.from_bytes(data[position : position + 4])
        kind = data[position + 4 : position + 8]
        if end + 4 > len(data):
            yield b""
            return
        whole = isal_zlib.crc32(view[position + 4 : end]) == int.from_bytes(view[end : end + 4])
        yield kind if whole else b""
        if kind == b"IEND":
            return
        position = end + 4
