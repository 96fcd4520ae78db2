from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import v2

from overlay.images.resize import decode_target, reduce_image, reduce_mask, resize_image


def test_decode_target_is_the_shorter_side_that_resize_needs() -> None:
    assert decode_target(224, "squash") == 224
    assert decode_target(224, "pad") == 224
    assert decode_target(224, "crop") == 256


def test_squash_is_antialiased() -> None:
    checkers = np.indices((64, 128)).sum(axis=0) % 2 * 255
    image = checkers.astype(np.uint8)[..., None].repeat(3, axis=2)
    resized = resize_image(image, 16, "squash").astype(int)
    assert resized.shape == (16, 16, 3)
    assert np.abs(resized - 127.5).max() < 2


def test_pad_centres_on_black() -> None:
    white = np.full((10, 40, 3), 255, np.uint8)
    padded = resize_image(white, 40, "pad")
    expected = np.zeros((40, 40, 3), np.uint8)
    expected[15:25] = 255
    np.testing.assert_array_equal(padded, expected)
    np.testing.assert_array_equal(resize_image(white.transpose(1, 0, 2), 40, "pad"), expected.transpose(1, 0, 2))


@pytest.mark.parametrize("shape", [(300, 400), (471, 562), (256, 256), (100, 90), (500, 301)])
def test_crop_is_torchvisions(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    theirs = v2.Compose([v2.Resize(256), v2.CenterCrop(224)])(Image.fromarray(image))
    assert np.abs(resize_image(image, 224, "crop").astype(int) - np.asarray(theirs)).max() <= 1


@pytest.mark.parametrize("rule", ["squash", "pad", "crop"])
@settings(max_examples=30, deadline=None)
@given(height=st.integers(1, 300), width=st.integers(1, 300), size=st.integers(32, 96))
def test_resize_gives_a_square_and_keeps_a_flat_colour(rule: Any, height: int, width: int, size: int) -> None:  # noqa: ANN401
    resized = resize_image(np.full((height, width, 3), (10, 120, 250), np.uint8), size, rule)
    assert resized.shape == (size, size, 3)
    np.testing.assert_array_equal(resized[(size - 1) // 2, (size - 1) // 2], (10, 120, 250))
    if rule != "pad":
        assert (resized == (10, 120, 250)).all()


def test_crop_of_a_long_strip_needs_no_long_picture() -> None:
    assert resize_image(np.zeros((1, 1_000_000, 3), np.uint8), 224, "crop").shape == (224, 224, 3)


@pytest.mark.parametrize("shape", [(60, 80), (80, 60), (80, 80), (1, 80)])
def test_an_image_that_is_not_larger_is_itself(shape: tuple[int, int]) -> None:
    image, mask = np.zeros((*shape, 3), np.uint8), np.zeros(shape, bool)
    for most in (None, 80, 81):
        assert reduce_image(image, most) is image
        assert reduce_mask(mask, most) is mask


@settings(max_examples=50, deadline=None)
@given(height=st.integers(1, 300), width=st.integers(1, 300), most=st.integers(1, 100))
def test_a_larger_image_gets_the_longer_side_and_keeps_its_aspect(height: int, width: int, most: int) -> None:
    reduced = reduce_image(np.full((height, width, 3), (10, 120, 250), np.uint8), most)
    lesion = reduce_mask(np.ones((height, width), bool), most)
    longer = max(height, width)
    assert lesion.shape == reduced.shape[:2]
    assert max(lesion.shape) == min(longer, most)
    assert abs(min(lesion.shape) - max(1, min(height, width) * min(1, most / longer))) <= 0.5
    assert (reduced == (10, 120, 250)).all()
    assert lesion.all()


def test_reduction_is_antialiased_and_a_mask_is_cut_at_half() -> None:
    checkers = (np.indices((64, 128)).sum(axis=0) % 2).astype(bool)
    grey = reduce_image(checkers[..., None].repeat(3, axis=2).astype(np.uint8) * 255, 16)
    assert grey.shape == (8, 16, 3)
    assert np.abs(grey.astype(int) - 127.5).max() < 2
    mask = np.zeros((80, 160), bool)
    mask[16:48, 32:96] = True
    mask[70, 150] = True  # less than half of a pixel
    expected = np.zeros((10, 20), bool)
    expected[2:6, 4:12] = True
    np.testing.assert_array_equal(reduce_mask(mask, 20), expected)
