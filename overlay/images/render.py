"""From one record to one row: read, decode, unite the masks, draw them, hash, encode; or a reason why not.

An image and its masks are named here, and read by a function that the caller gives: they may lie anywhere.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from overlay.config import OverlayStyle
from overlay.errors import ImageError
from overlay.images.codec import decode_image, encode_png
from overlay.images.hashing import perceptual_hash, pixels_digest
from overlay.images.masks import decode_mask, draw_mask, measure_mask, unite_masks
from overlay.storage.path import Read, StoragePath


def render_row(
    id: str, name: str, masks: Sequence[str], style: OverlayStyle, max_pixels: int, read: Read
) -> dict[str, Any]:
    """Return the columns of a row that come from the pixels, the ``sha256`` of the image (see `fingerprint`), and the
    ``pixels``' own digest (`digest_of`).

    An image without masks, and every image where the style is none, keeps its own bytes. The perceptual hash and the
    digest are of the image before its overlay is drawn, since near-duplicates are looked for in the ultrasound.

    Raises:
        ImageError: the image or a mask can't be used; the message is the reason.
        OSError: a file can't be read, for a cause that may pass.
    """
    data = read(name)
    pixels = decode_image(data, max_pixels=max_pixels)
    row = {"width": pixels.shape[1], "height": pixels.shape[0], "phash": perceptual_hash(pixels), "overlay": "none"}
    digest, digest_of_pixels = hashlib.sha256(data).hexdigest(), pixels_digest(pixels)
    if masks:
        united = unite_masks([_mask(mask, pixels.shape[:2], max_pixels, read) for mask in masks])
        if numbers := measure_mask(united):
            row |= {
                "mask_area_share": numbers.area_share,
                "mask_aspect": numbers.aspect,
                "mask_extent": numbers.extent,
                "mask_compactness": numbers.compactness,
                "mask_lesions": numbers.lesions,
            }
        if style.style != "none":
            drawn = draw_mask(pixels, united, style)
            data = encode_png(drawn)
            digest = pixels_digest(drawn)
            row["overlay"] = style.style
    return row | {"image": {"bytes": data, "path": id}, "sha256": digest, "pixels": digest_of_pixels}


def render_overlay(
    name: str, masks: Sequence[str], style: OverlayStyle, max_pixels: int, target: int, read: Read
) -> NDArray[np.uint8]:
    """Return an image with its masks drawn on it, (height, width, 3): what `render` puts into a row.

    An image that is much larger than ``target`` on its shorter side may come at a reduced scale.

    Raises:
        ImageError, OSError: as `render`.
    """
    if not masks or style.style == "none":
        return decode_image(read(name), max_pixels=max_pixels, target=target)
    pixels = decode_image(read(name), max_pixels=max_pixels)
    return draw_mask(pixels, unite_masks([_mask(mask, pixels.shape[:2], max_pixels, read) for mask in masks]), style)


def _mask(path: str, shape: tuple[int, ...], max_pixels: int, read: Read) -> NDArray[np.bool_]:
    name = StoragePath(path).name
    try:
        mask = decode_mask(read(path), max_pixels=max_pixels)
    except ImageError as error:
        raise ImageError(f"mask that can't be used: {name}: {error}") from error
    if mask.shape != shape:
        sizes = f"{name} has {mask.shape[1]} x {mask.shape[0]} pixels, its image {shape[1]} x {shape[0]}"
        raise ImageError(f"mask of another size: {sizes}")
    return mask
