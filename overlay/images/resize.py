"""Resizing of images to a model's input: squash, pad or crop; and the decoding scale that goes with it."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from overlay.config import ResizeRule


def decode_target(size: int, rule: ResizeRule) -> int:
    """Return the ``target`` of `decode_image` for a later `resize_image`: pixels of the shorter side."""
    return round(size * 256 / 224) if rule == "crop" else size


def resize_image(image: NDArray[np.uint8], size: int, rule: ResizeRule) -> NDArray[np.uint8]:
    """Return an image, uint8 (height, width, 3), as a square, uint8 (size, size, 3); bilinear with antialiasing.

    ``squash`` changes the aspect ratio. ``pad`` keeps it, centred on black. ``crop`` scales the shorter side to
    ``round(size * 256 / 224)`` and takes the centre, as torchvision's ``Resize(256)`` and ``CenterCrop(224)`` do.
    """
    picture = Image.fromarray(image)
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


def _scale(
    picture: Image.Image, width: int, height: int, box: tuple[float, float, float, float] | None = None
) -> Image.Image:
    # reducing_gap 3: sources of more than six times the size are first reduced by a whole factor; "almost
    # indistinguishable from fair resampling" (Pillow's documentation).
    return picture.resize((width, height), Image.Resampling.BILINEAR, box, 3.0)
