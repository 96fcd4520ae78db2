import io
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from overlay.config import MAX_PIXELS
from overlay.images.codec import encode_png
from overlay.images.png import SIGNATURE, decode_plain_png
from tests.both_decoders import both, pillow

SPECKLE = np.random.default_rng(0).integers(0, 256, (23, 31, 3)).astype(np.uint8)


def png(pixels: NDArray[Any], mode: str | None = None, **options: Any) -> bytes:  # noqa: ANN401
    buffer = io.BytesIO()
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(buffer, "PNG", **options)
    return buffer.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def with_chunk(data: bytes, kind: bytes, content: bytes) -> bytes:
    """A PNG file with a further chunk after its header."""
    return data[:33] + chunk(kind, content) + data[33:]


@pytest.mark.parametrize(
    "data", [png(SPECKLE), png(SPECKLE[:, :, 0]), encode_png(SPECKLE), png(SPECKLE, optimize=True)]
)
def test_a_plain_file_has_the_pixels_of_pillow(data: bytes) -> None:
    pixels = decode_plain_png(data, MAX_PIXELS)
    assert pixels is not None
    assert pixels.flags.writeable
    np.testing.assert_array_equal(pixels, pillow(data))
    assert decode_plain_png(data, SPECKLE[:, :, 0].size - 1) is None


EXIF = Image.Exif()
EXIF[274] = 6


def text() -> PngInfo:
    info, profile = PngInfo(), EXIF.tobytes()
    info.add_text("Raw profile type exif", f"\nexif\n{len(profile)}\n{profile.hex()}")
    return info


OTHERS = {
    "palette": png(SPECKLE, "P"),
    "one bit": png(SPECKLE, "1"),
    "alpha": png(np.dstack([SPECKLE, SPECKLE[:, :, :1]])),
    "grey and alpha": png(SPECKLE, "LA"),
    "16 bits": png(SPECKLE[:, :, 0].astype(np.uint16) * 257),
    "transparent colour": png(SPECKLE[:, :, 0], transparency=7),
    "orientation": png(SPECKLE, exif=EXIF),
    "text": png(SPECKLE, pnginfo=text()),
    "significant bits": with_chunk(png(SPECKLE[:, :, 0]), b"sBIT", b"\x05"),
    "no pixels": SIGNATURE + chunk(b"IHDR", struct.pack(">IIBBBBB", 0, 0, 8, 2, 0, 0, 0)) + chunk(b"IEND", b""),
    "signature": SIGNATURE,
    "another format": b"GIF89a" + bytes(40),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_files_are_left_to_pillow(name: str) -> None:
    assert decode_plain_png(OTHERS[name], MAX_PIXELS) is None
    ours, theirs = both(OTHERS[name])
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    "chunks",
    [
        [(b"gAMA", struct.pack(">I", 45455)), (b"pHYs", struct.pack(">IIB", 1, 1, 1))],
        [(b"tIME", bytes(7))],
        [(b"bKGD", bytes(6))],
    ],
)
def test_gamma_resolution_and_background_change_no_pixel(chunks: Sequence[tuple[bytes, bytes]]) -> None:
    data = png(SPECKLE)
    for kind, content in chunks:
        data = with_chunk(data, kind, content)
    np.testing.assert_array_equal(*both(data))


@given(st.data())
def test_damage_gives_what_pillow_says(data: st.DataObject) -> None:
    whole = bytearray(png(SPECKLE))
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(8, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
    cut = data.draw(st.one_of(st.just(len(whole)), st.integers(0, len(whole))))
    ours, theirs = both(bytes(whole[:cut]))
    np.testing.assert_array_equal(ours, theirs)
