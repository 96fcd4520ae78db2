from collections.abc import Mapping
from functools import cache

import numpy as np
import pytest

from overlay.config import ResizeRule
from overlay.images.codec import decode_image
from scripts.benchmarks.decoder_differences import (
    DecoderDifferences,
    GreyDifference,
    decoder_differences,
    format_table,
    grey_difference,
    resize_differences,
)
from scripts.benchmarks.odd_images import interlaced_png, odd_images, plain_png, speckled_picture

SHAPE = (240, 320)
SIZES = (112, 56, 28)
FAST = {"PNG, colour": "libspng", "PNG, grey": "libspng", "WebP, lossless": "libwebp"}


@cache
def measured() -> Mapping[str, DecoderDifferences]:
    return {name: decoder_differences(data, SIZES) for name, data in odd_images(*SHAPE).items()}


def test_the_decoder_of_each_file() -> None:
    assert {name: each.decoder for name, each in measured().items() if each.decoder != "Pillow"} == FAST


def test_every_file_has_pillows_pixels_at_its_full_size() -> None:
    assert {name for name, each in measured().items() if each.full.largest} == set()


def test_colours_are_pillows_own_but_for_transparency_and_depth() -> None:
    assert {name for name, each in measured().items() if each.plain.largest} == {
        "PNG, grey of 16 bits",
        "PNG, transparent",
        "PNG, transparent colour",
        "WebP, lossless, transparent",
        "WebP, lossy, transparent",
        "TIFF, grey of 16 bits",
        "TIFF, floats",
        "PGM of 16 bits",
    }


def test_only_sources_of_six_times_the_input_are_reduced_before_the_resize() -> None:
    others = {name: each for name, each in measured().items() if not name.startswith(("JPEG, ", "MPO"))}
    assert len(others) == 34
    for name, each in others.items():
        first, second, third = each.resized
        assert (first.largest, second.largest, each.scales) == (0, 0, (1, 1, 1)), name
        assert third.largest <= (6 if name in ("PNG, 1 bit", "TIFF, fax") else 2), name


def test_jpeg_at_reduced_scale_stays_near() -> None:
    jpegs = {name: each for name, each in measured().items() if name.startswith(("JPEG, ", "MPO"))}
    assert len(jpegs) == 15
    for name, each in jpegs.items():
        assert each.scales == (2, 4, 8), name
        assert max(apart.largest for apart in each.resized) <= 16, name
        assert max(apart.mean for apart in each.resized) < 1.2, name


@pytest.mark.parametrize("rule", ["squash", "pad", "crop"])
def test_resize_alone(rule: ResizeRule) -> None:
    largest = [each.largest for each in resize_differences(speckled_picture(*SHAPE), SIZES, rule)]
    assert largest[0] <= 1
    assert largest[1] <= 1
    assert largest[2] <= 3


def test_png_written_by_hand_holds_the_picture() -> None:
    for shape in ((1, 1), (2, 5), (9, 4), (23, 31)):
        picture = speckled_picture(*shape)
        np.testing.assert_array_equal(decode_image(plain_png(picture)), picture)
        np.testing.assert_array_equal(decode_image(interlaced_png(picture)), picture)


def test_a_difference_and_its_table() -> None:
    one, other = np.zeros((1, 2, 3), np.uint8), np.full((1, 2, 3), 3, np.uint8)
    other[0, 0] = 255
    assert grey_difference(one, other) == GreyDifference(255, 129.0)
    same = GreyDifference(0, 0.0)
    found = {
        "PNG, a": DecoderDifferences("libspng", same, same, (same,), (1,)),
        "PNG, b": DecoderDifferences("libspng", same, same, (same,), (1,)),
        "JPEG": DecoderDifferences("Pillow", same, GreyDifference(255, 129.0), (GreyDifference(9, 0.5),), (2,)),
    }
    assert format_table(found, [224]).splitlines() == [
        "| file | decoder | full size | 224 px | Pillow's own RGB |",
        "| --- | --- | --- | --- | --- |",
        "| PNG: a; b | libspng | 0 | 0 | 0 |",
        "| JPEG | Pillow | 0 | 9 (0.50), at 1/2 | 255 (129.00) |",
    ]
