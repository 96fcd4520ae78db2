"""Lesion masks: decoding, union, drawing on the image (overlay), and shape measurements.

The measurements matter because an overlay shows a model the outline that an annotator drew: how well the outline alone
predicts the class is the baseline of what a model reaches.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from overlay.config import MAX_PIXELS, OverlayStyle
from overlay.errors import ImageError
from overlay.images import codec


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

    The brightest channel of each pixel is compared with a threshold. If the maximum of the mask is above 127 (0/255,
    colours, antialiased edges), lesion pixels are those above 127; in a darker mask (0/1, or lesions numbered 1, 2, 3)
    they are those above 0. The threshold of a JPEG is always 127, since lossy compression makes its zeros inexact.

    Raises:
        ImageError: as `overlay.images.codec.decode_image`.
    """
    rgb = codec.decode_image(data, max_pixels=max_pixels)
    brightest = np.maximum(np.maximum(rgb[..., 0], rgb[..., 1]), rgb[..., 2])
    lossy = data.startswith(b"\xff\xd8")
    return brightest > (127 if lossy or brightest.max() > 127 else 0)


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

    A fill blends the lesion with the colour. A contour is opaque and covers the outermost ``style.width`` pixels of the
    lesion, so that no pixel outside the lesion changes; it follows the image's border where the lesion is cropped.

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
        drawn[box][mask[box] & (depth <= style.width)] = colour
    return drawn


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
