"""Grey images of more than 8 bits: range of their values by type and tags, and scaling to 8 bits.

The range of 16-bit values never depends on the values themselves: with a range by the largest value, one bright pixel
more would make an image four times darker than its neighbours.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

GREY_SCALING = "by the type and the tags of each file"
"""how 16-bit greys are scaled, for a model's card"""
SIGNIFICANT_BITS = "significant_bits"
"""key in ``Image.info`` of a PNG's chunk sBIT, an int; a text of this name in a file is a str"""
_BITS_PER_SAMPLE, _SAMPLE_FORMAT, _SIGNED = 258, 339, 2


def to_8_bit(image: Image.Image, bits: int | None = None) -> NDArray[np.uint8]:
    """Return the grey values of a Pillow image of a mode with more than 8 bits, scaled to uint8 (height, width).

    - 16 bits: the range is that of the type, 0 to 65535 or -32768 to 32767; or of fewer bits, by a TIFF's
      BitsPerSample, a PNG's sBIT, or by ``bits`` for a file without such a tag. Values above the range are white.
    - Floats within 0..1 are multiplied by 255, floats within 0..255 are rounded.
    - Other floats and 32-bit integers have no range: they are stretched from their minimum to their maximum, or
      integers to ``bits``. NaN and infinity are black.
    """
    values = np.asarray(image)
    limits = _grey_limits(image, values, bits)
    return _stretch(values) if limits is None else scale(values, *limits)


def scale(values: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    """Return values scaled from low..high to 0..255, uint8; values outside are black or white."""
    if values.dtype == np.uint16:  # a table takes a quarter of the time
        table = np.rint((np.arange(65536) - low) / (high - low) * 255).clip(0, 255).astype(np.uint8)
        return np.take(table, values)
    return np.rint((values.astype(np.float64) - low) / (high - low) * 255).clip(0, 255).astype(np.uint8)


def read_significant_bits(data: bytes) -> int | None:
    """Return the bits of the chunk sBIT of a PNG file (PNG specification, section 11.3.2.7); None without one."""
    place = 8
    while data[place + 4 : place + 8] not in (b"IDAT", b""):
        length = int.from_bytes(data[place : place + 4], "big")
        if data[place + 4 : place + 8] == b"sBIT" and length:
            return data[place + 8]
        place += 12 + length
    return None


def _grey_limits(image: Image.Image, values: NDArray[Any], bits: int | None) -> tuple[float, float] | None:
    """Return the range of the values; None where the type has none that is of use."""
    tags = getattr(image, "tag_v2", {})
    if image.mode.startswith("I;16"):
        stored = tags.get(_BITS_PER_SAMPLE, (16,))[0]
        if stored < 16:
            return 0, 2**stored - 1
        significant = image.info.get(SIGNIFICANT_BITS)
        if isinstance(significant, int):
            return 0, _significant_top(values, significant)
        return 0, 2 ** (bits or 16) - 1
    if image.mode == "I":
        if image.format == "PPM":  # Pillow scales its values to 16 bits, by the file's own maximum
            return 0, 65535
        if tags.get(_BITS_PER_SAMPLE, (32,))[0] == 16 and tags.get(_SAMPLE_FORMAT, (1,))[0] == _SIGNED:
            return -32768, 32767
        return (0, 2**bits - 1) if bits else None
    return None


def _significant_top(values: NDArray[Any], significant: int) -> int:
    """Return the largest value of a 16-bit PNG with sBIT.

    By the specification, samples of fewer bits are scaled up to 16, so that the range is the full one. Some writers
    leave them in the lower bits, where they are no multiples of the step between samples.
    """
    step, top = 2 ** (16 - significant), 2**significant - 1
    lower = 8 < significant < 16 and values.max() <= top and bool((values % step).any())
    return top if lower else 65535


def _stretch(values: NDArray[Any]) -> NDArray[np.uint8]:
    finite = np.isfinite(values)
    numbers = np.where(finite, values, 0).astype(np.float64)
    low, high = (numbers[finite].min(), numbers[finite].max()) if finite.any() else (0.0, 0.0)
    if not np.issubdtype(values.dtype, np.integer) and low >= 0 and high <= 255:
        low, high = 0.0, 1.0 if high <= 1 else 255.0
    scaled = (numbers - low) * (255 / (high - low) if high > low else 0)
    return np.where(finite, np.rint(scaled), 0).astype(np.uint8)
