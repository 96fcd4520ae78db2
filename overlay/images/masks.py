"""Lesion masks: decoding, union, drawing on the image (overlay), and shape measurements.

The measurements matter because an overlay shows a model the outline that an annotator drew: how well the outline alone
predicts the class is the baseline of what a model reaches.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from overlay.config import MAX_PIXELS, OverlayStyle
from overlay.errors import ImageError
from overlay.images import codec

_FEW_VALUES = 16
"""most values of a mask of labels; an antialiased edge has more"""
_PICTURE_SHARE = 0.5
_MOST_COLORS = 64
CONTOUR_SIDE = 224
"""pixels of the longer side of an image to which the width of a contour refers"""


@dataclass(frozen=True)
class MaskNumbers:
    """Shape measurements of a lesion mask; for several lesions, all but ``lesions`` are those of their union."""

    area_share: float
    """lesion pixels over all pixels, above 0 and at most 1"""
    aspect: float
    """height over width of the bounding box"""
    extent: float
    """lesion pixels over pixels of the bounding box, above 0 and at most 1"""
    compactness: float
    """perimeter squared over area: about 14 for a disc of pixels, more for a spiculated outline, 0 for one pixel"""
    lesions: int
    """connected components, pixels that touch at a corner being connected"""


def decode_mask(data: bytes, *, max_pixels: int = MAX_PIXELS) -> NDArray[np.bool_]:
    """Return a mask file as a boolean array, (height, width), true at lesion pixels; black is background.

    In a lossless mask of few values (0/1, 0/127/255, lesions or classes numbered 1 to n in 8 or 16 bits, palettes,
    colours), everything but the background is lesion. In one of many values (antialiased edges, probabilities), and in
    a lossy one, whose zeros are inexact, lesion pixels are those above half of the range. The value of a pixel is that
    of its brightest channel, or of the alpha channel where that alone holds the mask.

    Raises:
        ImageError: as `overlay.images.codec.decode_image`; or the mask is a picture: most of its pixels that are not
            black are neither dark nor bright.
    """
    image = codec.open_image(data, max_pixels=max_pixels)
    values, top = _mask_values(image)
    if not _is_lossy(image, data) and _is_labelled(values, top):
        return values > 0
    outside = values[values > top // 8]
    if np.count_nonzero(outside < top - top // 4) > _PICTURE_SHARE * outside.size:
        raise ImageError("a picture, not a mask: most of its pixels are neither black nor near the brightest value")
    return values > top // 2


def _mask_values(image: Image.Image) -> tuple[NDArray[Any], int]:
    """Return the value of each pixel of a mask, (height, width), and the largest value of their range."""
    if image.mode.startswith("I") and not codec.is_white_zero(image):
        numbers = np.asarray(codec.turn_upright(image, image))
        if numbers.min() >= 0:
            return numbers, max(65535, int(numbers.max()))
    if image.mode in ("1", "L") and not image.has_transparency_data:
        return np.asarray(codec.turn_upright(image.convert("L"), image)), 255
    brightest = codec.image_to_array(image).max(axis=2)  # composited on black
    if image.has_transparency_data:
        rgba = np.asarray(codec.turn_upright(image.convert("RGBA"), image))
        alpha = rgba[..., 3]
        if alpha.min() == alpha.max():  # it tells nothing, not even where it is 0 everywhere
            return rgba[..., :3].max(axis=2), 255
        if not brightest.any() or not _is_labelled(brightest, 255):
            return alpha, 255
    return brightest, 255


def _is_labelled(values: NDArray[Any], top: int) -> bool:
    """Whether the values of a lossless mask are labels: few, or all in the lower half of the range, or 0 to n."""
    most = int(values.max())
    if most <= top // 2:
        return True
    kinds = np.count_nonzero(np.bincount(values.ravel())) if most <= 65535 else len(np.unique(values))
    return bool(kinds <= _FEW_VALUES or (kinds == most + 1 and most < top))


def _is_lossy(image: Image.Image, data: bytes) -> bool:
    """Whether a mask's compression changes values, so that few of the background's pixels are 0."""
    if image.format == "WEBP":
        return b"VP8L" not in data
    return image.format in ("JPEG", "MPO", "JPEG2000", "AVIF") or image.info.get("compression") == "jpeg"


def mask_colors(data: bytes, *, max_pixels: int = MAX_PIXELS) -> set[int]:
    """Return the colours of a mask file as numbers 0xrrggbb, with that of the background.

    Raises:
        ImageError: as `overlay.images.codec.decode_image`; or the mask has more than 64 colours, or its compression is
            lossy, so that no colour is exact.
    """
    image = codec.open_image(data, max_pixels=max_pixels)
    if _is_lossy(image, data):
        raise ImageError(f"colours of a {image.format} are inexact: give masks in a lossless format")
    rgb = codec.image_to_array(image).astype(np.int32)
    colors = np.unique(rgb[..., 0] << 16 | rgb[..., 1] << 8 | rgb[..., 2])
    if len(colors) > _MOST_COLORS:
        raise ImageError(f"{len(colors)} colours, more than a mask of classes has")
    return {int(color) for color in colors}


def unite_masks(masks: Sequence[NDArray[np.bool_]]) -> NDArray[np.bool_]:
    """Return the union of one or more masks of an image, each (height, width).

    Raises:
        ImageError: the masks are of different sizes.
    """
    union = masks[0].copy()
    for mask in masks[1:]:
        if mask.shape != masks[0].shape:
            raise ImageError(f"masks of one image differ in size: {_size(masks[0])} and {_size(mask)}")
        union |= mask
    return union


def draw_mask(image: NDArray[np.uint8], mask: NDArray[np.bool_], style: OverlayStyle) -> NDArray[np.uint8]:
    """Return a copy of an image, uint8 (height, width, 3), with its mask, (height, width), drawn on it.

    A fill blends the lesion with the colour. A contour is opaque and covers the outermost pixels of the lesion, so that
    no pixel outside the lesion changes; it follows the image's border where the lesion is cropped. Its width is that of
    `contour_width`.

    Raises:
        ImageError: image and mask differ in size.
    """
    if image.shape[:2] != mask.shape:
        raise ImageError(f"the mask has {_size(mask)} pixels, its image {_size(image)}")
    drawn = image.copy()
    if style.style == "none" or not mask.any():
        return drawn
    colour = np.array([int(style.color[start : start + 2], 16) for start in (1, 3, 5)], np.uint8)
    if style.style == "fill":
        drawn[mask] = np.rint(image[mask] * (1 - style.alpha) + colour * style.alpha).astype(np.uint8)
    else:
        from scipy import ndimage

        box = _box(mask)
        # Padding with background closes the contour at the image's border.
        depth = ndimage.distance_transform_edt(np.pad(mask[box], 1))[1:-1, 1:-1]
        drawn[box][mask[box] & (depth <= contour_width(style, mask.shape))] = colour
    return drawn


def contour_width(style: OverlayStyle, shape: tuple[int, ...]) -> int:
    """Return the width of a contour in pixels of an image of ``shape``, (height, width, ...), at least 1.

    ``style.width`` is that in an image whose longer side has 224 pixels. A width in source pixels would be another one
    at the model's input for each resolution, which would make the resolution a feature.
    """
    return max(1, round(style.width * max(shape[:2]) / CONTOUR_SIDE))


def measure_mask(mask: NDArray[np.bool_]) -> MaskNumbers | None:
    """Return the shape measurements of a mask, (height, width); None for an empty mask.

    The perimeter is scikit-image's estimate from the configurations of border pixels (Benkrid and Crookes, "Design and
    FPGA implementation of a perimeter estimator", 2000).
    """
    if not mask.any():
        return None
    from skimage import measure as skimage_measure

    # Padding with background, so that a lesion at the image's border is measured as any other.
    lesion = np.pad(mask[_box(mask)], 1)
    height, width = lesion.shape[0] - 2, lesion.shape[1] - 2
    area = int(lesion.sum())
    perimeter = float(skimage_measure.perimeter(lesion))  # type: ignore[no-untyped-call]
    components = skimage_measure.label(lesion, connectivity=2)  # type: ignore[no-untyped-call]
    return MaskNumbers(
        area_share=area / mask.size,
        aspect=height / width,
        extent=area / (height * width),
        compactness=perimeter**2 / area,
        lesions=int(components.max()),
    )


def _box(mask: NDArray[np.bool_]) -> tuple[slice, slice]:
    """Return the bounding box of a non-empty mask: its rows and columns."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _size(array: NDArray[np.generic]) -> str:
    return f"{array.shape[1]} x {array.shape[0]}"
