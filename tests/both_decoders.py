"""One image by the project's decoder, and by Pillow alone: the same pixels, or the same reason."""

import numpy as np
from numpy.typing import NDArray

from overlay.errors import ImageError
from overlay.images.codec import decode_image, image_to_array, open_image


def pillow(data: bytes) -> NDArray[np.uint8] | str:
    """Pixels by Pillow alone, or the reason against the file."""
    try:
        return image_to_array(open_image(data))
    except ImageError as error:
        return str(error)


def both(data: bytes) -> tuple[NDArray[np.uint8] | str, NDArray[np.uint8] | str]:
    try:
        return decode_image(data), pillow(data)
    except ImageError as error:
        return str(error), pillow(data)
