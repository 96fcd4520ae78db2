"""Views of an overlay image for the audit of a model: tint removed, mask alone, lesion blanked.

The same model is shown each view of the same images. What its answers owe to the drawn mask and what to the ultrasound
shows in how they change: a model that reads the image keeps its accuracy without the tint, and loses it where the
lesion's pixels are gone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from overlay.config import Input, OverlayStyle
from overlay.images.codec import decode_image
from overlay.images.masks import decode_mask, draw_mask
from overlay.images.resize import resize_image

AuditView = Literal["untinted", "mask", "blanked"]
AUDIT_VIEWS: tuple[AuditView, ...] = get_args(AuditView)
PLAIN_GREY = 128
LARGEST_ERROR = 8
"""grey levels to within which a fill must be undone; an opacity above 0.94 leaves less of the image than that"""


@dataclass(frozen=True)
class AuditPlan:
    """Images of a split that are shown in several views."""

    ids: frozenset[str]
    views: tuple[AuditView, ...]
    style: OverlayStyle
    """of the stored images"""
    max_pixels: int


def possible_views(style: OverlayStyle) -> tuple[AuditView, ...]:
    """Return the views that can be made of images with an overlay of this style.

    A fill can be undone; a contour and an opaque fill hide the pixels beneath. Without an overlay there is no tint, and
    a mask on grey is nothing that the model has been shown.
    """
    if style.style == "none":
        return ("blanked",)
    undone = style.style == "fill" and undo_error(style) <= LARGEST_ERROR
    return AUDIT_VIEWS if undone else ("mask", "blanked")


def decode_views(image: bytes, mask: bytes | None, plan: AuditPlan, look: Input) -> NDArray[np.uint8]:
    """Decode an image file and its mask file of a dataset to all views of a plan, uint8 (views, size, size, 3).

    Raises:
        ImageError: a file can't be decoded.
    """
    drawn = decode_image(image, max_pixels=plan.max_pixels)
    lesion = None if mask is None else decode_mask(mask, max_pixels=plan.max_pixels)
    views: Sequence[NDArray[np.uint8]] = [draw_view(view, drawn, lesion, plan.style) for view in plan.views]
    return np.stack([resize_image(view, look.size, look.resize) for view in views])


def draw_view(
    view: AuditView, drawn: NDArray[np.uint8], mask: NDArray[np.bool_] | None, style: OverlayStyle
) -> NDArray[np.uint8]:
    """Return a view of an image with its overlay, uint8 (height, width, 3).

    untinted: the overlay removed; mask: the overlay on plain grey; blanked: the lesion plain grey, and the overlay on
    it. Without a mask, or with an empty one, the first and the last are the image itself.

    Args:
        view: one of `possible_views`.
        drawn: the image with its overlay, as the dataset stores it.
        mask: (height, width); None where the image has none.
        style: of the overlay.
    """
    if view == "mask":
        plain = np.full_like(drawn, PLAIN_GREY)
        return plain if mask is None else draw_mask(plain, mask, style)
    if mask is None:
        return drawn
    if view == "untinted":
        return undo_fill(drawn, mask, style)
    blank = drawn.copy()
    blank[mask] = PLAIN_GREY
    return draw_mask(blank, mask, style)


def undo_fill(drawn: NDArray[np.uint8], mask: NDArray[np.bool_], style: OverlayStyle) -> NDArray[np.uint8]:
    """Return an image without its fill of an opacity below 1, to within `undo_error` grey levels."""
    colour = draw_mask(np.zeros((1, 1, 3), np.uint8), np.ones((1, 1), bool), replace(style, alpha=1.0))[0, 0]
    image = drawn.copy()
    undone = (drawn[mask] - colour * style.alpha) / (1 - style.alpha)
    image[mask] = np.clip(np.rint(undone), 0, 255).astype(np.uint8)
    return image


def undo_error(style: OverlayStyle) -> int:
    """Return the largest error of `undo_fill` in grey levels: the rounding of the drawn pixel, scaled back."""
    return 255 if style.alpha == 1 else min(255, int(0.5 / (1 - style.alpha) + 0.5 - 1e-9))
