import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_strategies
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from overlay.images.codec import decode_image, keeps_its_bytes
from overlay.images.depth import to_8_bit


def save(image: Image.Image, kind: str, **options: Any) -> bytes:  # noqa: ANN401
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def first_row(data: bytes, bits: int | None = None) -> list[int]:
    decoded = decode_image(data, bits=bits)
    np.testing.assert_array_equal(decoded, decoded[..., :1].repeat(3, axis=2))
    row: list[int] = decoded[0, :, 0].tolist()
    return row


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG2000", "PPM"])
def test_16_bits_are_scaled_by_their_type(kind: str) -> None:
    grey = np.zeros((32, 32), np.uint16)
    grey[0, :4] = [0, 13107, 21845, 65535]
    assert first_row(save(Image.fromarray(grey), kind))[:4] == [0, 51, 85, 255]
    grey[0, 3] = 0
    assert first_row(save(Image.fromarray(grey), kind))[:4] == [0, 51, 85, 0]
    data = save(Image.fromarray(grey), kind)
    assert (keeps_its_bytes(data, None), keeps_its_bytes(data, 12)) == (True, False)


def test_one_bright_pixel_more_changes_no_other() -> None:
    grey = np.full((4, 4), 4000, np.uint16)
    before = first_row(save(Image.fromarray(grey), "PNG"))
    grey[3, 3] = 65535
    assert first_row(save(Image.fromarray(grey), "PNG")) == before


def test_untagged_12_bits_are_scaled_as_asked() -> None:
    grey = np.array([[0, 819, 4095, 5000]], np.uint16)
    for kind in ("PNG", "TIFF"):
        assert first_row(save(Image.fromarray(grey), kind), bits=12) == [0, 51, 255, 255]
        assert first_row(save(Image.fromarray(grey), kind)) == [0, 3, 16, 19]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 819, 1365, 4095], [0, 51, 85, 255]),  # in the lower 12 bits
        ([0, 13104, 21840, 65520], [0, 51, 85, 255]),  # shifted to the upper 12 bits
        ([0, 13107, 21845, 65535], [0, 51, 85, 255]),  # scaled to 16 bits, as specified
        ([0, 16, 1600, 4080], [0, 0, 6, 16]),  # dark, in the upper 12 bits
    ],
)
def test_significant_bits_of_a_png(values: list[int], expected: list[int]) -> None:
    info = PngInfo()
    info.add(b"sBIT", bytes([12]))
    data = save(Image.fromarray(np.array([values], np.uint16)), "PNG", pnginfo=info)
    assert first_row(data) == expected
    assert first_row(data, bits=10) == expected  # the tag goes before


def tiff(samples: bytes, width: int, bits: int, form: int = 1) -> bytes:
    """A TIFF of one row, written by hand."""
    entries = [(256, width), (257, 1), (258, bits), (259, 1), (262, 1), (273, 8), (277, 1), (278, 1)]
    entries += [(279, len(samples)), (339, form)]
    directory = len(entries).to_bytes(2, "little")
    for tag, value in entries:
        directory += tag.to_bytes(2, "little") + b"\4\0" + (1).to_bytes(4, "little") + value.to_bytes(4, "little")
    offset = 8 + len(samples) + len(samples) % 2
    return b"II*\0" + offset.to_bytes(4, "little") + samples + b"\0" * (len(samples) % 2) + directory + b"\0" * 4


def test_bits_per_sample_of_a_tiff() -> None:
    assert first_row(tiff(bytes.fromhex("000333555fff"), 4, 12)) == [0, 51, 85, 255]
    signed = np.array([-32768, 0, 32767], "<i2").tobytes()
    assert first_row(tiff(signed, 3, 16, form=2)) == [0, 128, 255]


def test_16_bit_tiff_with_white_as_zero_is_inverted() -> None:
    grey = np.array([[0, 65535]], np.uint16)
    assert first_row(save(Image.fromarray(grey), "TIFF", tiffinfo={262: 0})) == [255, 0]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 1, 200]], np.int32), [0, 1, 255]),
        (np.array([[-1000, 0, 1000]], np.int32), [0, 128, 255]),
        (np.array([[0, 100_000, 200_000]], np.int32), [0, 128, 255]),
        (np.array([[-5, -5]], np.int32), [0, 0]),
        (np.array([[0, 0.2, 1]], np.float32), [0, 51, 255]),
        (np.array([[0, 1.6, 200]], np.float32), [0, 2, 200]),
        (np.array([[-1, 0, 1]], np.float32), [0, 128, 255]),
        (np.array([[500, 1000]], np.float32), [0, 255]),
        (np.array([[np.nan, 0.2, 1, np.inf]], np.float32), [0, 51, 255, 0]),
        (np.array([[np.nan, np.nan]], np.float32), [0, 0]),
    ],
)
def test_numbers_without_a_range_are_stretched(values: NDArray[Any], expected: list[int]) -> None:
    assert to_8_bit(Image.fromarray(values))[0].tolist() == expected
    assert first_row(save(Image.fromarray(values), "TIFF")) == expected


@settings(deadline=None)
@given(
    numpy_strategies.arrays(
        st.sampled_from([np.uint16, np.int32, np.float32]), st.tuples(st.integers(1, 4), st.integers(1, 4))
    )
)
def test_scaling_keeps_the_order_of_grey_values(values: NDArray[Any]) -> None:
    scaled = to_8_bit(Image.fromarray(values))
    finite = np.isfinite(values)
    assert (np.diff(scaled[finite][np.argsort(values[finite])].astype(int)) >= 0).all()
    assert (scaled[~finite] == 0).all()


def test_a_text_called_like_the_bits_is_a_text() -> None:
    info = PngInfo()
    info.add_text("significant_bits", "abc")
    grey = np.array([[0, 13107, 21845, 65535]], np.uint16)
    assert first_row(save(Image.fromarray(grey), "PNG", pnginfo=info)) == [0, 51, 85, 255]
