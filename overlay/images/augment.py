"""Data augmentation of training images: random rotation, flip, zoom, brightness and contrast.

Implemented with Pillow, so that data tasks start without torch. The random numbers depend on (seed, epoch, sample)
alone, not on the process or on earlier draws.
"""

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from overlay.config import Augment


def augmentation_generator(seed: int, epoch: int, sample: int, repeat: int = 0) -> np.random.Generator:
    """Return the random generator of one sample in one epoch.

    ``repeat`` counts earlier occurrences of the sample in the epoch, which weighted sampling may draw several times.
    """
    return np.random.default_rng((seed, epoch, sample, repeat))


def augment(image: NDArray[np.uint8], config: Augment, random: np.random.Generator) -> NDArray[np.uint8]:
    """Return an augmented copy of an image, uint8 (height, width, 3), of the same shape.

    Rotation, flip and zoom are one affine transform about the centre, so that pixels are interpolated once (bilinear);
    pixels from outside the image are black, as is the frame of an ultrasound image.
    """
    # All numbers are drawn whatever the options, so that disabling one doesn't change the others.
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
    """Return Pillow's six coefficients of the inverse affine transform, from points of the result to the source.

    The result is the source scaled, then rotated by ``angle`` (radians, clockwise on the screen), about the centre.
    """
    a, b = math.cos(angle) / scale_x, math.sin(angle) / scale_x
    d, e = -math.sin(angle) / scale_y, math.cos(angle) / scale_y
    x, y = width / 2, height / 2
    return a, b, x - a * x - b * y, d, e, y - d * x - e * y
