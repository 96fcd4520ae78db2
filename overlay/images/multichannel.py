"""TIFF files whose channels Pillow can't read: several greys, of 8 or 16 bits, as microscopes write them."""

import io
import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray

from overlay.errors import ErrorKind, ImageError, one_line
from overlay.images.depth import scale

_MOST_CHANNELS = 64
_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def is_tiff(data: bytes) -> bool:
    """Whether a file begins as a TIFF or BigTIFF."""
    return data[:4] in _MAGIC


def decode_channels(data: bytes, max_pixels: int) -> NDArray[np.uint8]:
    """Return the first three channels of the first page of a TIFF as RGB pixels, uint8 (height, width, 3).

    Channels of 16 bits are scaled by the full range of their type.

    Raises:
        ImageError: it has fewer than three channels, channels of another type, more than ``max_pixels`` pixels, a
            compression that can't be read, or is damaged; the message is the reason.
    """
    import tifffile

    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # its errors become reasons
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            page: Any = file.pages[0]
            height, width, channels = page.imagelength, page.imagewidth, page.samplesperpixel
            if height * width > max_pixels:
                said = f"too many pixels: {width} x {height}, more than {max_pixels} (max_pixels)"
                raise ImageError(said, ErrorKind.TOO_LARGE)
            if not 3 <= channels <= _MOST_CHANNELS or page.dtype not in (np.uint8, np.uint16):
                raise ImageError(
                    f"TIFF of {channels} channels of {page.dtype}; 3 to {_MOST_CHANNELS} of 8 or 16 bits can be read"
                )
            values = page.asarray()
            if values.ndim != 3:
                raise ImageError("damaged TIFF: its channels are not what it says")
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # damaged files raise exceptions of any type
        raise ImageError(f"damaged or unsupported TIFF: {one_line(error)}"[:200]) from error
    if page.planarconfig == 2:  # each channel for itself
        values = np.moveaxis(values, 0, -1)
    return np.ascontiguousarray(values[..., :3]) if values.dtype == np.uint8 else scale(values[..., :3], 0, 65535)
