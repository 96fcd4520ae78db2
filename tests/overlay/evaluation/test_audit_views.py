import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from overlay.config import OverlayStyle
from overlay.evaluation import audit_views
from overlay.images.masks import draw_mask

FILL = OverlayStyle()
RANDOM = np.random.default_rng(0)
IMAGE = RANDOM.integers(0, 256, (20, 30, 3), dtype=np.uint8)
MASK = np.zeros((20, 30), bool)
MASK[5:15, 8:20] = True


def distance(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> int:
    return int(np.abs(a.astype(int) - b).max())


@given(alpha=st.floats(0.05, 0.95), colour=st.integers(0, 2**24 - 1))
def test_a_fill_is_undone_to_within_its_rounding(alpha: float, colour: int) -> None:
    style = OverlayStyle(alpha=alpha, color=f"#{colour:06x}")
    greys = np.repeat(np.arange(256, dtype=np.uint8)[:, None, None], 3, axis=2)
    mask = np.ones((256, 1), bool)
    undone = audit_views.undo_fill(draw_mask(greys, mask, style), mask, style)
    assert distance(undone, greys) <= audit_views.undo_error(style)


@pytest.mark.parametrize(("alpha", "levels"), [(0.35, 1), (0.5, 1), (0.6, 1), (0.7, 2), (0.9, 5), (1, 255)])
def test_the_usual_fill_is_undone_to_within_one_grey_level(alpha: float, levels: int) -> None:
    assert audit_views.undo_error(OverlayStyle(alpha=alpha)) == levels


def test_pixels_outside_of_the_lesion_stay() -> None:
    drawn = draw_mask(IMAGE, MASK, FILL)
    untinted = audit_views.draw_view("untinted", drawn, MASK, FILL)
    assert (untinted[~MASK] == IMAGE[~MASK]).all()
    assert distance(untinted, IMAGE) == 1


@pytest.mark.parametrize("style", [FILL, OverlayStyle(style="contour", width=1)])
def test_a_blanked_lesion_keeps_its_overlay_and_nothing_else(style: OverlayStyle) -> None:
    drawn = draw_mask(IMAGE, MASK, style)
    blanked = audit_views.draw_view("blanked", drawn, MASK, style)
    assert (blanked[~MASK] == drawn[~MASK]).all()
    other = draw_mask(RANDOM.integers(0, 256, IMAGE.shape, dtype=np.uint8), MASK, style)
    assert (audit_views.draw_view("blanked", other, MASK, style)[MASK] == blanked[MASK]).all()
    if style.style == "contour":
        assert (blanked[5, 8:20] == (0xFF, 0x3B, 0x30)).all()
        assert (blanked[6:14, 9:19] == 128).all()


def test_the_mask_alone_shows_nothing_of_the_image() -> None:
    view = audit_views.draw_view("mask", IMAGE, MASK, FILL)
    assert (view[~MASK] == 128).all()
    # 0.65 * 128 + 0.35 * (255, 59, 48)
    assert (view[MASK] == (172, 104, 100)).all()


@pytest.mark.parametrize("mask", [None, np.zeros((20, 30), bool)])
def test_an_image_without_a_lesion_is_its_own_view(mask: NDArray[np.bool_] | None) -> None:
    assert (audit_views.draw_view("untinted", IMAGE, mask, FILL) == IMAGE).all()
    assert (audit_views.draw_view("blanked", IMAGE, mask, FILL) == IMAGE).all()
    assert (audit_views.draw_view("mask", IMAGE, mask, FILL) == 128).all()


@pytest.mark.parametrize(
    ("style", "views"),
    [
        (FILL, ("untinted", "mask", "blanked")),
        (OverlayStyle(alpha=0.94), ("untinted", "mask", "blanked")),
        (OverlayStyle(alpha=0.95), ("mask", "blanked")),
        (OverlayStyle(alpha=1.0), ("mask", "blanked")),
        (OverlayStyle(style="contour"), ("mask", "blanked")),
        (OverlayStyle(style="none"), ("blanked",)),
    ],
)
def test_what_a_style_hides_is_not_shown(style: OverlayStyle, views: tuple[str, ...]) -> None:
    assert audit_views.possible_views(style) == views
