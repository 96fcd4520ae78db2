"""Resizing of images to a model's input: squash, pad or crop; the decoding scale that goes with it; a bounded side."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from overlay.config import ResizeRule


def decode_target(size: int, rule: ResizeRule) -> int:
    """Return the ``target`` of `decode_image` for a later `resize_image`: pixels of the shorter side."""
    return round(size * 256 / 224) if rule == "crop" else size


def resize_image(image: NDArray[np.uint8] | Image.Image, size: int, rule: ResizeRule) -> NDArray[np.uint8]:
    """Return an image, uint8 (height, width, 3), as a square, uint8 (size, size, 3); bilinear with antialiasing.

    A Pillow image in the mode RGB is taken as it is, which saves two copies of its pixels.

    ``squash`` changes the aspect ratio. ``pad`` keeps it, centred on black. ``crop`` scales the shorter side to
    ``round(size * 256 / 224)`` and takes the centre, as torchvision's ``Resize(256)`` and ``CenterCrop(224)`` do.
    """
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    width, height = picture.size
    if rule == "squash":
        return np.array(_scale(picture, size, size))
    if rule == "pad":
        factor = size / max(width, height)
        scaled = _scale(picture, max(1, round(width * factor)), max(1, round(height * factor)))
        square = Image.new("RGB", (size, size))
        square.paste(scaled, ((size - scaled.width) // 2, (size - scaled.height) // 2))
        return np.array(square)
    # The box of the crop in the source: the same pixels as of scaling everything first, without the memory that a long
    # strip would need.
    shorter = decode_target(size, rule)
    scaled_width = max(shorter, int(shorter * width / height))
    scaled_height = max(shorter, int(shorter * height / width))
    left, top = round((scaled_width - size) / 2), round((scaled_height - size) / 2)
    across, down = width / scaled_width, height / scaled_height
    box = (left * across, top * down, (left + size) * across, (top + size) * down)
    return np.array(_scale(picture, size, size, box))


def reduce_image(image: NDArray[np.uint8], max_side: int | None) -> NDArray[np.uint8]:
    """Return an image, uint8 (height, width, 3), with its longer side reduced to ``max_side`` pixels.

    Itself where it is not larger, and without a ``max_side``. Bilinear with antialiasing, as `resize_image`.
    """
    if max_side is None or max(image.shape[:2]) <= max_side:
        return image
    return np.array(_scale(Image.fromarray(image), *_reduced_size(image.shape, max_side)))


def reduce_mask(mask: NDArray[np.bool_], max_side: int | None) -> NDArray[np.bool_]:
    """Return a mask, (height, width), of the size that `reduce_image` gives its image.

    A pixel is lesion where more than half of it was, by the same filter; so a lesion of less than a pixel may vanish.
    """
    if max_side is None or max(mask.shape) <= max_side:
        return mask
    white = Image.fromarray(mask.astype(np.uint8) * 255)
    lesion: NDArray[np.bool_] = np.array(_scale(white, *_reduced_size(mask.shape, max_side))) > 127
    return lesion


def _reduced_size(shape: tuple[int, ...], max_side: int) -> tuple[int, int]:
    """Return width and height of an image of ``shape``, (height, width, ...), reduced to ``max_side``."""
    factor = max_side / max(shape[:2])
    return max(1, round(shape[1] * factor)), max(1, round(shape[0] * factor))


def _scale(
    picture: Image.Image, width: int, height: int, box: tuple[float, float, float, float] | None = None
) -> Image.Image:
    # reducing_gap 3: sources of more than six times the size are first reduced by a whole factor; "almost
    # indistinguishable from fair resampling" (Pillow's documentation).
    return picture.resize((width, height), Image.Resampling.BILINEAR, box, 3.0)
