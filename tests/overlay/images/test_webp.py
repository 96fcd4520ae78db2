import io
import struct
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from overlay.config import MAX_PIXELS
from overlay.errors import ImageError, RequestError
from overlay.images import webp
from overlay.images.codec import decode_image
from overlay.images.webp import NEEDS_IMAGECODECS, WEBP_SIDE, decode_plain_webp, encode_webp
from tests.both_decoders import both, pillow

SPECKLE = np.random.default_rng(0).integers(0, 256, (23, 31, 3)).astype(np.uint8)


def saved(pixels: NDArray[np.uint8], **options: Any) -> bytes:  # noqa: ANN401
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "WEBP", **options)
    return buffer.getvalue()


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 256), st.integers(0, 99))
def test_pixels_survive_to_the_bit_by_either_decoder(height: int, width: int, values: int, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, values, (height, width, 3)).astype(np.uint8)
    data = encode_webp(pixels)
    plain = decode_plain_webp(data, MAX_PIXELS)
    assert plain is not None
    assert plain.flags.writeable
    np.testing.assert_array_equal(plain, pixels)
    np.testing.assert_array_equal(pillow(data), pixels)


@pytest.mark.parametrize("shape", [(1, WEBP_SIDE, 3), (WEBP_SIDE, 1, 3)])
def test_the_longest_side(shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, shape).astype(np.uint8)
    np.testing.assert_array_equal(decode_plain_webp(encode_webp(pixels), WEBP_SIDE), pixels)


def test_the_limit_on_pixels_holds_before_decoding() -> None:
    data = encode_webp(SPECKLE)
    assert decode_plain_webp(data, 23 * 31 - 1) is None
    with pytest.raises(ImageError, match="too many pixels: 31 x 23, more than 712"):
        decode_image(data, max_pixels=23 * 31 - 1)
    assert decode_image(data, max_pixels=23 * 31).shape == SPECKLE.shape


EXIF = Image.Exif()
EXIF[274] = 6
OTHERS = {
    "lossy": saved(SPECKLE),
    "transparency": saved(np.dstack([SPECKLE, SPECKLE[:, :, :1]]), lossless=True, exact=True),
    "orientation": saved(SPECKLE, lossless=True, exif=EXIF),
    "profile": saved(SPECKLE, lossless=True, icc_profile=b"profile"),
    "animation": saved(SPECKLE, lossless=True, save_all=True, append_images=[Image.fromarray(SPECKLE[::-1])]),
    "header": encode_webp(SPECKLE)[:20],
    "another format": b"RIFF" + struct.pack("<I", 40) + b"WAVE" + bytes(40),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_files_are_left_to_pillow(name: str) -> None:
    assert decode_plain_webp(OTHERS[name], MAX_PIXELS) is None
    ours, theirs = both(OTHERS[name])
    np.testing.assert_array_equal(ours, theirs)


@given(st.data())
def test_damage_gives_what_pillow_says(data: st.DataObject) -> None:
    whole = bytearray(encode_webp(SPECKLE // 16))
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
    cut = data.draw(st.one_of(st.just(len(whole)), st.integers(0, len(whole))))
    ours, theirs = both(bytes(whole[:cut]))
    np.testing.assert_array_equal(ours, theirs)


def test_without_imagecodecs_pillow_decodes_and_prepare_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    webp.check_webp()
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    assert decode_plain_webp(encode_webp(SPECKLE), MAX_PIXELS) is None
    np.testing.assert_array_equal(decode_image(encode_webp(SPECKLE)), SPECKLE)
    monkeypatch.setattr(webp, "find_spec", lambda _: None)
    with pytest.raises(RequestError, match=r"install overlay\[webp\]"):
        webp.check_webp()
    assert "encoding" in NEEDS_IMAGECODECS
