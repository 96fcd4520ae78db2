"""Hashes of images: perceptual hash, and digest of the pixels."""

import hashlib

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def perceptual_hash(image: NDArray[np.uint8]) -> str:
    """Return the 256-bit pHash of an image, (height, width, 3), as 64 hexadecimal digits.

    ImageHash's ``phash(hash_size=16)``: the signs of the 16 x 16 lowest frequencies about their median.
    """
    import imagehash

    return str(imagehash.phash(Image.fromarray(image), hash_size=16))


def pixels_digest(pixels: NDArray[np.uint8]) -> str:
    """Return the sha256 of an image's height, width and pixels, by which identical images are known."""
    return hashlib.sha256(f"{pixels.shape}".encode() + pixels.tobytes()).hexdigest()
