import threading
import warnings

import numpy as np
import pytest
from PIL import Image

from overlay.errors import ImageError
from overlay.images.codec import decode_image, encode_png, keeps_its_bytes
from overlay.images.decoder_state import decoding


def test_both_are_as_before_when_the_last_thread_ends() -> None:
    filters, limit = list(warnings.filters), Image.MAX_IMAGE_PIXELS
    inside, outside = threading.Event(), threading.Event()

    def work() -> None:
        with decoding(10**9):
            inside.set()
            outside.wait(60)

    thread = threading.Thread(target=work)
    with decoding(50):
        thread.start()
        inside.wait(60)
    assert Image.MAX_IMAGE_PIXELS == 5 * 10**8
    assert len(warnings.filters) == len(filters) + 1
    outside.set()
    thread.join()
    assert (list(warnings.filters), limit) == (filters, Image.MAX_IMAGE_PIXELS)


def test_only_warnings_of_decoders_are_ignored() -> None:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with decoding():
            warnings.warn_explicit("a tag", UserWarning, "f.py", 1, module="PIL.TiffImagePlugin")
            warnings.warn_explicit("of somebody else", UserWarning, "f.py", 1, module="user")
    assert [str(each.message) for each in said] == ["of somebody else"]


def test_a_limit_is_raised_and_never_lowered() -> None:
    before = Image.MAX_IMAGE_PIXELS
    assert before is not None
    with decoding(1000):
        assert before == Image.MAX_IMAGE_PIXELS
        with decoding(2 * before + 3):
            assert before + 2 == Image.MAX_IMAGE_PIXELS
        assert before == Image.MAX_IMAGE_PIXELS


def test_a_limit_beyond_that_of_pillow_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    data = encode_png(np.zeros((20, 20, 3), np.uint8))
    assert decode_image(data, max_pixels=400).shape == (20, 20, 3)
    assert keeps_its_bytes(data, None)
    with pytest.raises(ImageError, match=r"damaged image: Image size \(400 pixels\) exceeds limit"):
        decode_image(data, max_pixels=99)
    with pytest.raises(ImageError, match=r"too many pixels: 20 x 20, more than 399 \(max_pixels\)"):
        decode_image(data, max_pixels=399)
