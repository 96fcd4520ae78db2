"""From masks to overlays: read a lesion mask, unite several, draw them on their image, and measure them.

The numbers of a mask matter because an overlay shows its model the outline that somebody drew: what the outline alone
gives away has to be known beside what a model reaches.
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
    """What a mask alone says about its lesion; with several lesions, all but the last are of their union."""

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
    """Return the lesion's pixels of a mask file, (height, width); black is background.

    A pixel counts by its brightest channel. In a mask that reaches beyond half of the range (0/255, colours,
    antialiased edges) lesion is what lies above half; in a darker one (0/1, or lesions numbered 1, 2, 3) whatever is
    not 0. A JPEG is always cut at half of the range, for its zeros are not exact.

    Raises:
        ImageError: as :func:`overlay.images.codec.decode_image` does.
    """
    rgb = codec.decode_image(data, max_pixels=max_pixels)
    brightest = np.maximum(np.maximum(rgb[..., 0], rgb[..., 1]), rgb[..., 2])
    lossy = data.startswith(b"\xff\xd8")
    return brightest > (127 if lossy or brightest.max() > 127 else 0)


def unite_masks(masks: Sequence[NDArray[np.bool_]]) -> NDArray[np.bool_]:
    """Return the union of an image's masks, at least one, each (height, width).

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
    """Return a copy of an image, (height, width, 3), with its mask, (height, width), drawn on it.

    A fill blends the lesion with the colour. A contour is opaque and covers the lesion's outermost ``style.width``
    pixels, so that nothing outside the lesion changes; it runs along the image's border where the lesion is cut off.

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
        # The frame of background closes the contour at the image's border.
        depth = ndimage.distance_transform_edt(np.pad(mask[box], 1))[1:-1, 1:-1]
        drawn[box][mask[box] & (depth <= style.width)] = colour
    return drawn


def measure_mask(mask: NDArray[np.bool_]) -> MaskNumbers | None:
    """Return the numbers of a mask, (height, width), or None where it is empty.

    The perimeter is scikit-image's estimate, from the configurations of the border's pixels (Benkrid and Crookes,
    "Design and FPGA implementation of a perimeter estimator", 2000).
    """
    if not mask.any():
        return None
    from skimage import measure as skimage_measure

    # A frame of background, so that a lesion at the image's border is measured as any other.
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
    """Return the rows and columns that a mask, not empty, reaches over."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _size(array: NDArray[np.generic]) -> str:
    return f"{array.shape[1]} x {array.shape[0]}"
