import io
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_strategies
from numpy.typing import NDArray
from PIL import Image

from overlay.config import OverlayStyle
from overlay.errors import ImageError
from overlay.images import masks
from overlay.images.codec import encode_png

Mask = NDArray[np.bool_]
small_masks = numpy_strategies.arrays(np.bool_, st.tuples(st.integers(1, 12), st.integers(1, 12)))


def rectangle(
    shape: tuple[int, int] = (40, 50), top: int = 10, left: int = 5, height: int = 10, width: int = 20
) -> Mask:
    mask = np.zeros(shape, bool)
    mask[top : top + height, left : left + width] = True
    return mask


def save(pixels: NDArray[Any], kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


@pytest.mark.parametrize(
    "pixels",
    [
        rectangle(),
        rectangle().astype(np.uint8),
        rectangle().astype(np.uint8) * 255,
        rectangle().astype(np.uint16),
        rectangle().astype(np.uint16) * 65535,
        rectangle()[..., None] * np.array([255, 255, 255], np.uint8),
        rectangle()[..., None] * np.array([128, 0, 0], np.uint8),
        rectangle()[..., None] * np.array([0, 0, 255], np.uint8),
        np.where(rectangle()[..., None], 255, [0, 0, 0, 255]).astype(np.uint8),
        np.where(rectangle()[..., None], 255, [0, 0, 0, 0]).astype(np.uint8),
    ],
    ids=["1 bit", "0/1", "0/255", "16-bit 0/1", "16-bit full", "RGB", "dark red", "blue", "RGBA", "transparent"],
)
def test_masks_of_every_kind(pixels: NDArray[Any]) -> None:
    decoded = masks.decode_mask(save(pixels))
    assert decoded.dtype == np.bool_
    np.testing.assert_array_equal(decoded, rectangle())


def test_numbered_lesions_all_count() -> None:
    numbered = np.array([[0, 1, 2, 3]], np.uint8)
    np.testing.assert_array_equal(masks.decode_mask(save(numbered)), [[False, True, True, True]])


def test_a_palette_counts_by_its_colours_not_its_indices() -> None:
    picture = Image.fromarray(np.array([[0, 1]], np.uint8)).convert("P")
    picture.putpalette([255, 0, 0, 0, 0, 0])
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    np.testing.assert_array_equal(masks.decode_mask(stream.getvalue()), [[True, False]])


def test_antialiased_edges_are_cut_at_half() -> None:
    edge = np.zeros((40, 60), np.uint8)
    edge[:, 20:30] = np.linspace(0, 255, 400).reshape(10, 40).T  # a ramp of many values
    edge[:, 30:] = 255
    np.testing.assert_array_equal(masks.decode_mask(save(edge)), edge > 127)


def test_few_values_are_all_lesion_but_the_background() -> None:
    two = np.zeros((90, 110), np.uint8)
    two[10:30, 10:30], two[50:80, 60:100] = 127, 255
    np.testing.assert_array_equal(masks.decode_mask(save(two)), two > 0)


@pytest.mark.parametrize("count", [3, 40, 300])
def test_lesions_numbered_in_16_bits(count: int) -> None:
    numbered = np.repeat(np.arange(count + 1, dtype=np.uint16), 5).reshape(-1, 5)
    np.testing.assert_array_equal(masks.decode_mask(save(numbered)), numbered > 0)
    np.testing.assert_array_equal(masks.decode_mask(save(numbered, "TIFF")), numbered > 0)


def test_lesions_numbered_to_200_in_8_bits() -> None:
    numbered = np.arange(201, dtype=np.uint8)[None]
    np.testing.assert_array_equal(masks.decode_mask(save(numbered)), numbered > 0)


def test_a_palette_of_pascal_voc_counts_whole() -> None:
    classes = np.array([[0, 1, 8, 16, 20, 255]], np.uint8)
    picture = Image.fromarray(classes).convert("P")
    colours = np.zeros((256, 3), np.uint8)  # PASCAL VOC's development kit, VOClabelcolormap: bits of the index
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= ((np.arange(256) >> (3 * bit + channel) & 1) << (7 - bit)).astype(np.uint8)
    picture.putpalette(colours.ravel().tolist())
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    np.testing.assert_array_equal(masks.decode_mask(stream.getvalue()), classes > 0)


@pytest.mark.parametrize("colour", [0, 255, 90])
def test_a_mask_in_the_alpha_channel(colour: int) -> None:
    alpha = np.full((40, 50, 4), colour, np.uint8)
    alpha[..., 3] = rectangle().astype(np.uint8) * 255
    np.testing.assert_array_equal(masks.decode_mask(save(alpha)), rectangle())
    np.testing.assert_array_equal(masks.decode_mask(save(alpha[..., 2:])), rectangle())


def test_a_picture_cut_out_by_its_alpha_channel() -> None:
    cut = np.random.default_rng(0).integers(0, 256, (40, 50, 4), np.uint8)
    cut[..., 3] = rectangle().astype(np.uint8) * 255
    np.testing.assert_array_equal(masks.decode_mask(save(cut)), rectangle())


@pytest.mark.parametrize("alpha", [0, 128, 255])
def test_an_alpha_channel_that_is_the_same_everywhere_tells_nothing(alpha: int) -> None:
    pixels = np.zeros((40, 50, 4), np.uint8)
    pixels[..., :3][rectangle()] = 255
    pixels[..., 3] = alpha
    np.testing.assert_array_equal(masks.decode_mask(save(pixels)), rectangle())


def test_a_mask_of_16_bits_whose_zero_is_white() -> None:
    stream = io.BytesIO()
    inverse = np.where(rectangle(), 0, 65535).astype(np.uint16)
    Image.fromarray(inverse).save(stream, "TIFF", tiffinfo={262: 0})
    np.testing.assert_array_equal(masks.decode_mask(stream.getvalue()), rectangle())


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_picture_is_no_mask(kind: str) -> None:
    picture = np.random.default_rng(0).integers(20, 160, (40, 50), np.uint8)
    with pytest.raises(ImageError, match=r"^a picture, not a mask: "):
        masks.decode_mask(save(picture, kind))


def test_a_lossy_webp_loses_its_noise_and_a_lossless_one_keeps_its_labels() -> None:
    labels = np.zeros((64, 64), np.uint8)
    labels[8:24, 8:24], labels[40:56, 40:56] = 100, 255
    rgb = np.repeat(labels[..., None], 3, axis=2)
    stream = io.BytesIO()
    Image.fromarray(rgb).save(stream, "WEBP", lossless=True)
    np.testing.assert_array_equal(masks.decode_mask(stream.getvalue()), labels > 0)
    stream = io.BytesIO()
    Image.fromarray(rgb).save(stream, "WEBP", quality=60)
    np.testing.assert_array_equal(masks.decode_mask(stream.getvalue()), labels > 127)


def test_jpeg_masks_lose_their_noise() -> None:
    mask = rectangle((64, 64), 16, 16, 32, 24)
    decoded = masks.decode_mask(save(mask.astype(np.uint8) * 255, "JPEG"))
    np.testing.assert_array_equal(decoded, mask)
    faint = np.random.default_rng(0).integers(0, 4, (64, 64), np.uint8)
    assert not masks.decode_mask(save(faint, "JPEG")).any()


def test_a_black_mask_is_empty() -> None:
    assert not masks.decode_mask(save(np.zeros((5, 7, 3), np.uint8))).any()


def test_a_mask_that_is_no_image() -> None:
    with pytest.raises(ImageError, match="no image that can be read"):
        masks.decode_mask(b"not a mask")
    with pytest.raises(ImageError, match="too many pixels: 40 x 30, more than 100"):
        masks.decode_mask(save(np.zeros((30, 40), np.uint8)), max_pixels=100)


@settings(deadline=None)
@given(small_masks)
def test_written_and_read_again(mask: Mask) -> None:
    np.testing.assert_array_equal(masks.decode_mask(encode_png(mask)), mask)


def test_unite() -> None:
    one, other = rectangle(left=0), rectangle(left=30)
    before = one.copy()
    np.testing.assert_array_equal(masks.unite_masks([one, other]), one | other)
    np.testing.assert_array_equal(one, before)
    np.testing.assert_array_equal(masks.unite_masks([one]), one)
    with pytest.raises(ImageError, match=r"^masks of one image differ in size: 50 x 40 and 50 x 41$"):
        masks.unite_masks([one, rectangle((41, 50))])


def test_fill_blends_inside_and_leaves_the_rest() -> None:
    image = np.full((40, 50, 3), (100, 50, 10), np.uint8)
    drawn = masks.draw_mask(image, rectangle(), OverlayStyle(style="fill", color="#ff3b30", alpha=0.4))
    np.testing.assert_array_equal(drawn[rectangle()], np.tile(np.array([162, 54, 25], np.uint8), (200, 1)))
    np.testing.assert_array_equal(drawn[~rectangle()], image[~rectangle()])
    assert (image == (100, 50, 10)).all()


def test_contour_is_the_lesions_outermost_pixels() -> None:
    image = np.zeros((40, 50, 3), np.uint8)
    drawn = masks.draw_mask(image, rectangle(), OverlayStyle(style="contour", color="#0a141e", width=13))
    expected = rectangle()
    expected[13:17, 8:22] = False
    np.testing.assert_array_equal((drawn == (10, 20, 30)).all(axis=2), expected)
    np.testing.assert_array_equal(drawn.any(axis=2), expected)


def test_contour_closes_at_the_images_border_and_goes_round_holes() -> None:
    mask = np.ones((9, 9), bool)
    mask[4, 4] = False
    drawn = masks.draw_mask(np.zeros((9, 9, 3), np.uint8), mask, OverlayStyle(style="contour", width=1))
    expected = np.zeros((9, 9), bool)
    expected[[0, -1]] = expected[:, [0, -1]] = True
    expected[[3, 5, 4, 4], [4, 4, 3, 5]] = True
    np.testing.assert_array_equal(drawn.any(axis=2), expected)


@pytest.mark.parametrize(("side", "width", "pixels"), [(224, 3, 3), (448, 3, 6), (564, 3, 8), (112, 3, 2), (20, 1, 1)])
def test_the_width_of_a_contour_is_that_at_224_pixels(side: int, width: int, pixels: int) -> None:
    style = OverlayStyle(style="contour", width=width)
    assert masks.contour_width(style, (side // 2, side)) == masks.contour_width(style, (side, side // 2, 3)) == pixels


def test_a_contour_is_as_wide_at_the_models_input_at_each_resolution() -> None:
    shares = []
    for side in (224, 448, 896):
        mask = rectangle((side, side), side // 4, side // 4, side // 2, side // 2)
        drawn = masks.draw_mask(np.zeros((side, side, 3), np.uint8), mask, OverlayStyle(style="contour"))
        shares.append(drawn.any(axis=2).mean())
    np.testing.assert_allclose(shares, shares[0], rtol=0.01)


def test_none_and_an_empty_mask_leave_a_copy() -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    for mask, style in (
        (rectangle(), "none"),
        (np.zeros((40, 50), bool), "fill"),
        (np.zeros((40, 50), bool), "contour"),
    ):
        drawn = masks.draw_mask(image, mask, OverlayStyle(style=style))  # type: ignore[arg-type]
        np.testing.assert_array_equal(drawn, image)
        assert not np.shares_memory(drawn, image)


@pytest.mark.parametrize("style", ["fill", "contour", "none"])
def test_a_mask_of_another_size_is_refused_with_both_sizes(style: Any) -> None:  # noqa: ANN401
    with pytest.raises(ImageError, match=re.escape("the mask has 50 x 40 pixels, its image 40 x 50")):
        masks.draw_mask(np.zeros((50, 40, 3), np.uint8), rectangle(), OverlayStyle(style=style))


@settings(deadline=None)
@given(mask=small_masks, style=st.sampled_from(["fill", "contour"]), width=st.integers(1, 5))
def test_nothing_outside_the_lesion_changes(mask: Mask, style: Any, width: int) -> None:  # noqa: ANN401
    image = np.full((*mask.shape, 3), 100, np.uint8)
    changed = (masks.draw_mask(image, mask, OverlayStyle(style=style, width=width)) != image).any(axis=2)
    assert not changed[~mask].any()
    assert changed.any() == mask.any()


def test_numbers_of_a_rectangle() -> None:
    # The perimeter runs through the centres of the border's pixels: 2 * (9 + 19).
    assert masks.measure_mask(rectangle()) == masks.MaskNumbers(
        area_share=0.1, aspect=0.5, extent=1.0, compactness=56**2 / 200, lesions=1
    )


def test_numbers_of_two_lesions_are_of_their_union() -> None:
    both = rectangle(top=0, left=0, height=10, width=10) | rectangle(top=20, left=30, height=10, width=10)
    assert masks.measure_mask(both) == masks.MaskNumbers(
        area_share=0.1, aspect=30 / 40, extent=200 / 1200, compactness=72**2 / 200, lesions=2
    )


def test_numbers_of_a_disc_and_a_pixel() -> None:
    y, x = np.mgrid[:201, :201]
    disc = masks.measure_mask((y - 100) ** 2 + (x - 100) ** 2 <= 80**2)
    assert disc is not None
    assert disc.aspect == 1
    assert disc.extent == pytest.approx(np.pi / 4, abs=0.02)
    assert disc.compactness == pytest.approx(14.0, abs=0.1)
    pixel = masks.measure_mask(rectangle(height=1, width=1))
    assert pixel == masks.MaskNumbers(area_share=1 / 2000, aspect=1.0, extent=1.0, compactness=0.0, lesions=1)


def test_corners_connect() -> None:
    diagonal = masks.measure_mask(np.eye(4, dtype=bool))
    assert diagonal is not None
    assert diagonal.lesions == 1


def test_an_empty_mask_has_no_numbers() -> None:
    assert masks.measure_mask(np.zeros((4, 5), bool)) is None


@settings(deadline=None)
@given(mask=small_masks, top=st.integers(0, 5), left=st.integers(0, 5))
def test_laws_of_the_numbers(mask: Mask, top: int, left: int) -> None:
    numbers = masks.measure_mask(mask)
    assert (numbers is None) == (not mask.any())
    if numbers is None:
        return
    assert 0 < numbers.area_share <= numbers.extent <= 1
    assert numbers.compactness >= 0
    assert 1 <= numbers.lesions <= mask.sum()
    assert masks.measure_mask(mask[:, ::-1]) == numbers
    assert masks.measure_mask(mask[::-1]) == numbers
    turned = masks.measure_mask(mask.T)
    assert turned is not None
    assert turned.aspect == pytest.approx(1 / numbers.aspect)
    assert (turned.extent, turned.compactness, turned.lesions) == (
        numbers.extent,
        numbers.compactness,
        numbers.lesions,
    )
    # Moved in a larger image, only the share of the area changes.
    framed = np.zeros((mask.shape[0] + 5, mask.shape[1] + 5), bool)
    framed[top : top + mask.shape[0], left : left + mask.shape[1]] = mask
    moved = masks.measure_mask(framed)
    assert moved is not None
    assert moved.area_share == pytest.approx(numbers.area_share * mask.size / framed.size)
    assert (moved.aspect, moved.extent, moved.compactness, moved.lesions) == (
        numbers.aspect,
        numbers.extent,
        numbers.compactness,
        numbers.lesions,
    )
