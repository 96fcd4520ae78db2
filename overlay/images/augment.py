"""Random changes to a training image: rotation, flip, zoom, brightness and contrast.

Pillow does the pixels, so that data tasks start without torch. What is drawn depends on (seed, epoch, sample) alone:
not on the process, nor on what was drawn before.
"""

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from overlay.config import Augment


def augmentation_generator(seed: int, epoch: int, sample: int, repeat: int = 0) -> np.random.Generator:
    """Return the random numbers of one sample in one epoch; ``repeat`` is how often it came before in that epoch."""
    return np.random.default_rng((seed, epoch, sample, repeat))


def augment(image: NDArray[np.uint8], config: Augment, random: np.random.Generator) -> NDArray[np.uint8]:
    """Return a randomly changed copy of an image, (height, width, 3), of the same shape.

    Rotation, flip and zoom are one affine map about the centre, so that pixels are interpolated once (bilinear); what
    comes from outside the image is black, as is the frame of an ultrasound image.
    """
    # All numbers are drawn whatever the options, so that switching one off leaves the others as they were.
    angle, zoom, brightness, contrast = random.uniform(-1, 1, size=4)
    mirrored, upside_down = random.uniform(size=2) < (config.flip, config.vertical_flip)
    picture = Image.fromarray(image)
    matrix = _inverse_affine(
        image.shape[1],
        image.shape[0],
        angle=math.radians(angle * config.rotation),
        scale_x=(1 + zoom * config.zoom) * (-1 if mirrored else 1),
        scale_y=(1 + zoom * config.zoom) * (-1 if upside_down else 1),
    )
    picture = picture.transform(picture.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    if config.brightness:
        picture = ImageEnhance.Brightness(picture).enhance(1 + brightness * config.brightness)
    if config.contrast:
        picture = ImageEnhance.Contrast(picture).enhance(1 + contrast * config.contrast)
    return np.asarray(picture)


def _inverse_affine(
    width: int, height: int, *, angle: float, scale_x: float, scale_y: float
) -> tuple[float, float, float, float, float, float]:
    """Return Pillow's six numbers: the point of the source image for each point of the result.

    The result is the source scaled, then turned by ``angle`` (radians, clockwise on the screen), about the centre.
    """
    a, b = math.cos(angle) / scale_x, math.sin(angle) / scale_x
    d, e = -math.sin(angle) / scale_y, math.cos(angle) / scale_y
    x, y = width / 2, height / 2
    return a, b, x - a * x - b * y, d, e, y - d * x - e * y
