import math
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from overlay.config import Augment
from overlay.images.augment import augment, augmentation_generator

NOTHING = Augment(rotation=0, flip=0, vertical_flip=0, zoom=0, brightness=0, contrast=0)
EVERYTHING = Augment(rotation=30, flip=0.5, vertical_flip=0.5, zoom=0.3, brightness=0.3, contrast=0.3)
SHAPES = [(64, 64), (48, 64), (33, 50), (1, 7)]


class Drawn(np.random.Generator):
    """Gives the numbers that a test wants, instead of random ones."""

    def __init__(self, *, angle: float = 0, zoom: float = 0, brightness: float = 0, contrast: float = 0) -> None:
        super().__init__(np.random.PCG64(0))
        self._numbers = [angle, zoom, brightness, contrast]

    def uniform(self, *_: float, size: int) -> NDArray[np.float64]:  # type: ignore[override]
        return np.array(self._numbers) if size == 4 else np.full(size, 0.5)


def picture(height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def dot(height: int, width: int, x: float, y: float) -> NDArray[np.uint8]:
    """Draw a soft white dot on black, centred at a point of the plane, where pixel (0, 0) covers 0..1."""
    ys, xs = np.mgrid[:height, :width] + 0.5
    bright = 255 * np.exp(-((xs - x) ** 2 + (ys - y) ** 2) / 8)
    return np.repeat(bright.astype(np.uint8)[..., None], 3, axis=2)


def centre(image: NDArray[np.uint8]) -> tuple[float, float]:
    """Return the centre of mass, as x and y."""
    mass = image[..., 0].astype(float)
    ys, xs = np.mgrid[: mass.shape[0], : mass.shape[1]] + 0.5
    return float((xs * mass).sum() / mass.sum()), float((ys * mass).sum() / mass.sum())


@pytest.mark.parametrize("shape", SHAPES)
def test_nothing_switched_on_changes_nothing(shape: tuple[int, int]) -> None:
    image = picture(*shape)
    for sample in range(20):
        np.testing.assert_array_equal(augment(image, NOTHING, augmentation_generator(0, 0, sample)), image)


@pytest.mark.parametrize("shape", SHAPES)
def test_flips_mirror_exactly(shape: tuple[int, int]) -> None:
    image = picture(*shape)
    for sample in range(20):
        random = augmentation_generator(3, 1, sample)
        np.testing.assert_array_equal(augment(image, replace(NOTHING, flip=1), random), image[:, ::-1])
        random = augmentation_generator(3, 1, sample)
        np.testing.assert_array_equal(augment(image, replace(NOTHING, vertical_flip=1), random), image[::-1])


@pytest.mark.parametrize("shape", SHAPES)
def test_seed_epoch_and_sample_decide_and_the_input_stays_as_it_is(shape: tuple[int, int]) -> None:
    image = picture(*shape)
    before = image.copy()
    changed = augment(image, EVERYTHING, augmentation_generator(5, 2, 9))
    assert changed.shape == image.shape
    assert changed.dtype == np.uint8
    np.testing.assert_array_equal(changed, augment(image, EVERYTHING, augmentation_generator(5, 2, 9)))
    np.testing.assert_array_equal(image, before)


def test_another_seed_epoch_or_sample_draws_anew() -> None:
    image = picture(64, 64)
    places = [(5, 2, 9), (6, 2, 9), (5, 3, 9), (5, 2, 10)]
    assert len({augment(image, EVERYTHING, augmentation_generator(*place)).tobytes() for place in places}) == 4


def test_a_positive_angle_turns_clockwise_on_the_screen() -> None:
    # 12 pixels to the right of the centre, (40, 30); a quarter of the way round, it is below the centre.
    image = dot(60, 80, x=52, y=30)
    turned = augment(image, replace(NOTHING, rotation=90), Drawn(angle=1))
    assert centre(turned) == pytest.approx((40, 42), abs=0.05)
    turned = augment(image, replace(NOTHING, rotation=60), Drawn(angle=-0.5))
    expected = (40 + 12 * math.cos(math.radians(-30)), 30 + 12 * math.sin(math.radians(-30)))
    assert centre(turned) == pytest.approx(expected, abs=0.05)


def test_a_positive_zoom_enlarges_about_the_centre() -> None:
    image = dot(60, 80, x=50, y=24)
    assert centre(augment(image, replace(NOTHING, zoom=0.5), Drawn(zoom=1))) == pytest.approx((55, 21), abs=0.05)
    assert centre(augment(image, replace(NOTHING, zoom=0.5), Drawn(zoom=-1))) == pytest.approx((45, 27), abs=0.05)


def test_what_comes_from_outside_is_black() -> None:
    image = np.full((40, 40, 3), 200, np.uint8)
    small = augment(image, replace(NOTHING, zoom=0.5), Drawn(zoom=-1))
    assert set(np.unique(small[12:28, 12:28])) == {200}
    assert not small[:9].any()
    assert not small[:, :9].any()


def test_brightness_and_contrast_are_relative() -> None:
    image = np.full((8, 8, 3), 100, np.uint8)
    image[:4] = 60  # the mean is 80
    brighter = augment(image, replace(NOTHING, brightness=0.5), Drawn(brightness=0.5))
    assert np.unique(brighter).tolist() == [75, 125]
    flatter = augment(image, replace(NOTHING, contrast=0.5), Drawn(contrast=-1))
    assert np.unique(flatter).tolist() == [70, 90]


@pytest.mark.parametrize("off", ["rotation", "flip", "vertical_flip", "zoom"])
def test_switching_a_movement_off_leaves_the_brightness(off: str) -> None:
    config = replace(EVERYTHING, contrast=0)
    grey = np.full((32, 32, 3), 100, np.uint8)
    for sample in range(10):
        images = [
            augment(grey, each, augmentation_generator(0, 0, sample)) for each in (config, replace(config, **{off: 0}))
        ]
        assert images[0][16, 16, 0] == images[1][16, 16, 0]


@pytest.mark.parametrize("off", ["brightness", "contrast"])
def test_switching_a_tone_off_leaves_the_movements(off: str) -> None:
    image = dot(60, 80, x=50, y=24) // 2
    for sample in range(10):
        images = [
            augment(image, each, augmentation_generator(0, 0, sample))
            for each in (EVERYTHING, replace(EVERYTHING, **{off: 0}))
        ]
        assert centre(images[0] - images[0].min()) == pytest.approx(centre(images[1] - images[1].min()), abs=0.2)
