"""Rendering of overlays: decode an image, unite its masks, draw them, hash, encode.

An `ImageRef` names an image and its masks; the caller's `ReadFunction` reads them from a file, an archive or a table.
"""

import hashlib
from dataclasses import dataclass
from typing import NotRequired, TypedDict

import numpy as np
from numpy.typing import NDArray

from overlay.config import MAX_PIXELS, Encoding, OverlayStyle
from overlay.errors import ErrorKind, ImageError
from overlay.images.codec import (
    Picture,
    StoredImage,
    decode_image,
    decode_picture,
    encode_png,
    image_format,
    is_larger,
    keeps_its_bytes,
)
from overlay.images.hashing import perceptual_hash, pixels_digest
from overlay.images.masks import decode_mask, draw_mask, measure_mask, unite_masks
from overlay.images.ref import ImageRef, ReadFunction
from overlay.images.resize import reduce_image, reduce_mask
from overlay.images.webp import WEBP_SIDE, encode_webp
from overlay.storage.path import StoragePath


@dataclass(frozen=True)
class RenderOptions:
    """How images of a prepared dataset are read, drawn and stored; options of `overlay prepare`."""

    style: OverlayStyle
    max_pixels: int = MAX_PIXELS
    """largest image or mask in pixels"""
    bits: int | None = None
    """see `overlay.images.depth.to_8_bit`"""
    encoding: Encoding = "png"
    """format of what is not stored with its own bytes"""
    max_side: int | None = None
    """longer side, in pixels, to which larger images are reduced before their masks are drawn"""


class RenderedRow(TypedDict):
    """Columns of a row of a prepared dataset that depend on the pixels."""

    image: StoredImage
    mask: StoredImage | None
    width: int
    height: int
    phash: str
    overlay: str
    encoding: str
    sha256: str
    """of the stored bytes, or of the pixels where an overlay was drawn; see `overlay.dataset.card.fingerprint`"""
    pixels: str
    """SHA-256 of the source's pixels"""
    frame: int | None
    mask_area_share: NotRequired[float]
    mask_aspect: NotRequired[float]
    mask_extent: NotRequired[float]
    mask_compactness: NotRequired[float]
    mask_lesions: NotRequired[int]


def render_row(ref: ImageRef, options: RenderOptions, read: ReadFunction) -> RenderedRow:
    """Return the columns of a dataset's row that depend on the pixels.

    An image without masks, and every image where the style is none, keeps its own bytes, unless others read them
    differently (`keeps_its_bytes`), or they name a patient, or it is reduced: these are encoded anew. The perceptual
    hash and ``pixels`` are of the source's image, before it is reduced or its overlay is drawn, since near-duplicates
    are searched in the ultrasound. All else is of the image and mask as they are stored.

    Raises:
        ImageError: the image or a mask is damaged or too large, or a mask has another size; the message is the reason.
        OSError: a file can't be read for a transient cause.
    """
    data = read(ref.name)
    pixels = decode_image(data, max_pixels=options.max_pixels, frame=ref.frame, bits=options.bits)
    image = reduce_image(pixels, options.max_side)
    row = RenderedRow(
        image={"bytes": data, "path": ref.id},
        mask=None,
        width=image.shape[1],
        height=image.shape[0],
        phash=perceptual_hash(pixels),
        overlay="none",
        encoding=image_format(data),
        sha256=hashlib.sha256(data).hexdigest(),
        pixels=pixels_digest(pixels),
        frame=ref.frame,
    )
    stored = None if image is pixels and keeps_its_bytes(data, options.bits) else image
    if ref.masks:
        united = reduce_mask(_read_union(ref, pixels.shape[:2], options.max_pixels, read), options.max_side)
        row["mask"] = {"bytes": encode_png(united), "path": f"{ref.id}.mask.png"}
        if numbers := measure_mask(united):
            row["mask_area_share"] = numbers.area_share
            row["mask_aspect"] = numbers.aspect
            row["mask_extent"] = numbers.extent
            row["mask_compactness"] = numbers.compactness
            row["mask_lesions"] = numbers.lesions
        if options.style.style != "none":
            stored = draw_mask(image, united, options.style)
            row["overlay"] = options.style.style
    if stored is not None:
        encoded, row["encoding"] = _encode(stored, options.encoding)
        row["image"] = {"bytes": encoded, "path": ref.id}
        row["sha256"] = pixels_digest(stored)
    return row


def render_overlay(ref: ImageRef, options: RenderOptions, target: int, read: ReadFunction) -> Picture:
    """Return an image with its masks drawn on it, as `render_row` stores it.

    An image that `render_row` stores with its own bytes may come at a reduced scale, where its shorter side is much
    larger than ``target`` pixels.

    Raises:
        ImageError: the image or a mask is damaged or too large, or a mask has another size; the message is the reason.
        OSError: a file can't be read for a transient cause.
    """
    data, side = read(ref.name), options.max_side
    drawn = bool(ref.masks) and options.style.style != "none"
    whole = drawn or (side is not None and is_larger(data, side))
    scale = None if whole else target
    picture = decode_picture(data, max_pixels=options.max_pixels, target=scale, frame=ref.frame, bits=options.bits)
    if not drawn and side is None:
        return picture
    pixels = np.asarray(picture)
    image = reduce_image(pixels, side)
    if not drawn:
        return image
    united = _read_union(ref, pixels.shape[:2], options.max_pixels, read)
    return draw_mask(image, reduce_mask(united, side), options.style)


def read_contents(ref: ImageRef, read: ReadFunction) -> dict[str, bytes]:
    """Return the bytes of an image and its masks by the names that `render_row` and `render_overlay` read.

    Raises:
        ImageError: a file is not there, is no regular file, or is too large.
        OSError: a file can't be read for a transient cause.
    """
    contents = {ref.name: read(ref.name)}
    for path in ref.masks:
        try:
            contents[path] = read(path)
        except ImageError as error:
            raise _unusable_mask(path, error) from error
    return contents


def _encode(pixels: NDArray[np.uint8], encoding: Encoding) -> tuple[bytes, Encoding]:
    """Return an image as a file, and its format: PNG also where a side is too long for WebP."""
    if encoding == "webp" and max(pixels.shape) <= WEBP_SIDE:
        return encode_webp(pixels), "webp"
    return encode_png(pixels), "png"


def _unusable_mask(path: str, error: ImageError) -> ImageError:
    return ImageError(f"mask that can't be used: {StoragePath(path).name}: {error}", error.kind)


def _read_union(ref: ImageRef, shape: tuple[int, ...], max_pixels: int, read: ReadFunction) -> NDArray[np.bool_]:
    masks = []
    for path in ref.masks:
        name = StoragePath(path).name
        try:
            mask = decode_mask(read(path), max_pixels=max_pixels)
        except ImageError as error:
            raise _unusable_mask(path, error) from error
        if mask.shape != shape:
            sizes = f"{name} has {mask.shape[1]} x {mask.shape[0]} pixels, its image {shape[1]} x {shape[0]}"
            raise ImageError(f"mask of another size: {sizes}", ErrorKind.REFUSED)
        masks.append(mask)
    return unite_masks(masks)
