"""Image hashes: perceptual hash (pHash) and SHA-256 of the pixels."""

import hashlib

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from overlay.images.codec import decode_image

_HASHED_SIDE = 64  # pixels that the perceptual hash resizes an image to


def perceptual_hash(image: NDArray[np.uint8]) -> str:
    """Return the 256-bit pHash of an image, uint8 (height, width, 3), as 64 hexadecimal digits.

    ImageHash's ``phash(hash_size=16)``: whether each of the 16 x 16 lowest DCT coefficients is above their median.
    """
    import imagehash

    return str(imagehash.phash(Image.fromarray(image), hash_size=16))


def hash_file(data: bytes, max_pixels: int) -> str:
    """Return the perceptual hash of an image file, which is decoded at a small scale where its format allows it.

    Raises:
        ImageError: as `overlay.images.codec.decode_image`.
    """
    return perceptual_hash(decode_image(data, max_pixels=max_pixels, target=_HASHED_SIDE))


def pixels_digest(pixels: NDArray[np.uint8]) -> str:
    """Return the SHA-256 of an image's shape and pixels, uint8 (height, width, 3), as 64 hexadecimal digits.

    Images with equal digests count as identical.
    """
    return hashlib.sha256(f"{pixels.shape}".encode() + pixels.tobytes()).hexdigest()
