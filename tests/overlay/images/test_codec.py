import io
import struct
import zlib
from functools import cache
from typing import Any, get_args

import imagehash
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_strategies
from numpy.typing import NDArray
from PIL import Image

from overlay.config import ResizeRule
from overlay.errors import ImageError
from overlay.images import codec, hashing
from overlay.images.resize import resize_image
from overlay.storage.filenames import IMAGE_ENDINGS


def save(image: Image.Image, kind: str, **options: Any) -> bytes:  # noqa: ANN401
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def colours(height: int = 30, width: int = 40) -> NDArray[np.uint8]:
    """A smooth picture without any symmetry, so that lossy formats stay close and every turn shows."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 // width, y * 255 // height, (x + y) * 120 // (height + width)], axis=2).astype(np.uint8)


def png(width: int, height: int, depth: int = 8, colour: int = 0, rows: bytes = b"") -> bytes:
    """A PNG written by hand, which may declare what it doesn't hold."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@cache
def encoded(kind: str) -> bytes:
    options: dict[str, dict[str, Any]] = {"WEBP": {"lossless": True}, "JPEG": {"quality": 95}, "AVIF": {"quality": 90}}
    return save(Image.fromarray(colours()), kind, **options.get(kind, {}))


@pytest.mark.parametrize(
    "kind", ["PNG", "TIFF", "BMP", "WEBP", "JPEG2000", "PPM", "DIB", "DDS", "PCX", "SGI", "TGA", "QOI"]
)
def test_lossless_formats_come_back_exactly(kind: str) -> None:
    decoded = codec.decode_image(encoded(kind))
    np.testing.assert_array_equal(decoded, colours())
    assert decoded.dtype == np.uint8
    assert decoded.flags.writeable


@pytest.mark.parametrize("kind", ["JPEG", "AVIF", "GIF"])
def test_lossy_formats_come_back_nearly(kind: str) -> None:
    difference = codec.decode_image(encoded(kind)).astype(int) - colours()
    assert difference.shape == (30, 40, 3)
    assert np.abs(difference).mean() < 8


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_exif_orientation_is_applied(kind: str, orientation: int) -> None:
    upright = colours()
    # The stored picture from which each orientation leads back to the upright one (EXIF 2.32, table 4.6.4 B).
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: np.rot90(upright, 2).transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = save(
        Image.fromarray(np.ascontiguousarray(stored)), kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {})
    )
    np.testing.assert_array_equal(codec.decode_image(data), upright)


def test_transparency_is_composited_on_black() -> None:
    rgba = np.array([[[200, 100, 50, 255], [200, 100, 50, 51], [200, 100, 50, 0]]], np.uint8)
    np.testing.assert_array_equal(
        codec.decode_image(save(Image.fromarray(rgba), "PNG")), [[[200, 100, 50], [40, 20, 10], [0, 0, 0]]]
    )
    grey = np.array([[[200, 255], [200, 0]]], np.uint8)
    np.testing.assert_array_equal(codec.decode_image(save(Image.fromarray(grey), "PNG"))[0, :, 0], [200, 0])


def test_palette_with_and_without_transparency() -> None:
    palette = Image.fromarray(np.array([[0, 1, 2]], np.uint8)).convert("P")
    palette.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    np.testing.assert_array_equal(
        codec.decode_image(save(palette, "PNG")), [[[10, 20, 30], [40, 50, 60], [70, 80, 90]]]
    )
    transparent = codec.decode_image(save(palette, "PNG", transparency=b"\xff\x00\x33"))
    np.testing.assert_array_equal(transparent, [[[10, 20, 30], [0, 0, 0], [14, 16, 18]]])


def test_1_bit() -> None:
    bits = np.array([[True, False, True]])
    for kind in ("PNG", "TIFF", "BMP"):
        np.testing.assert_array_equal(codec.decode_image(save(Image.fromarray(bits), kind))[0, :, 2], [255, 0, 255])


def test_cmyk() -> None:
    cmyk = Image.new("CMYK", (16, 8), (0, 255, 255, 0))
    np.testing.assert_array_equal(codec.decode_image(save(cmyk, "TIFF")), np.full((8, 16, 3), (255, 0, 0)))
    assert np.abs(codec.decode_image(save(cmyk, "JPEG")).astype(int) - (255, 0, 0)).max() < 4


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_several_pictures_the_first_counts(kind: str) -> None:
    first, second = Image.new("RGB", (8, 6), (255, 0, 0)), Image.new("RGB", (8, 6), (0, 0, 255))
    options = {"lossless": True} if kind == "WEBP" else {}
    decoded = codec.decode_image(save(first, kind, save_all=True, append_images=[second], **options))
    np.testing.assert_array_equal(decoded, np.full((6, 8, 3), (255, 0, 0)))


def test_size_is_checked_before_pixels_are_decoded() -> None:
    bomb = png(13_000, 13_000)  # Pillow would warn here, and then find no pixels
    with pytest.raises(ImageError, match=r"^too many pixels: 13000 x 13000, more than 50000000 \(max_pixels\)$"):
        codec.decode_image(bomb)
    with pytest.raises(ImageError, match="damaged PNG: image file is truncated"):  # beyond the limit of Pillow itself
        codec.decode_image(png(20_000, 20_000), max_pixels=10**9)
    with pytest.raises(ImageError, match=r"^too many pixels: 40 x 30, more than 1199 \(max_pixels\)$"):
        codec.decode_image(encoded("PNG"), max_pixels=1199)
    assert codec.decode_image(encoded("PNG"), max_pixels=1200).shape == (30, 40, 3)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "^empty file$"),
        (b"patient,label\n1,benign\n", "^no image that can be read"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "^no image that can be read"),
        (png(4, 4, rows=b"\0" * 3), "^damaged PNG: "),
        (png(4, 4, depth=3), "^no image that can be read|^damaged"),
        (png(0, 4), "^damaged|^no image that can be read"),
    ],
)
def test_anything_else_is_a_reason(data: bytes, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        codec.decode_image(data)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "AVIF", "PPM"])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_file_cut_off_is_a_reason_or_whole(kind: str, data: st.DataObject) -> None:
    whole = encoded(kind)
    part = whole[: data.draw(st.integers(0, len(whole) - 1))]
    try:
        decoded = codec.decode_image(part)
    except ImageError:
        return
    np.testing.assert_array_equal(decoded, codec.decode_image(whole))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "AVIF", "JPEG2000", "PPM"])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_damaged_bytes_are_an_image_or_a_reason_in_one_line(kind: str, data: st.DataObject) -> None:
    damaged = bytearray(encoded(kind))
    # The first bytes decide the most.
    positions = st.one_of(st.integers(0, min(200, len(damaged) - 1)), st.integers(0, len(damaged) - 1))
    for position, value in data.draw(st.lists(st.tuples(positions, st.integers(0, 255)), min_size=1, max_size=8)):
        damaged[position] = value
    reason = None
    try:
        decoded = codec.decode_image(bytes(damaged), max_pixels=100_000)
    except ImageError as error:
        reason = str(error)
    if reason is None:
        assert decoded.shape[2] == 3
        assert decoded.shape[0] * decoded.shape[1] <= 100_000
    else:
        assert 0 < len(reason) <= 200
        assert len(reason.splitlines()) == 1


@pytest.mark.parametrize(
    ("target", "shape"),
    [(None, (600, 800)), (601, (600, 800)), (300, (300, 400)), (299, (300, 400)), (150, (150, 200)), (20, (75, 100))],
)
def test_a_large_jpeg_is_decoded_at_reduced_scale(target: int | None, shape: tuple[int, int]) -> None:
    data = save(Image.fromarray(colours(600, 800)), "JPEG", quality=95)
    decoded = codec.decode_image(data, target=target)
    assert decoded.shape == (*shape, 3)
    expected = np.asarray(Image.fromarray(colours(600, 800)).resize(shape[::-1], Image.Resampling.BOX)).astype(int)
    assert np.abs(decoded - expected).max() < 8


@pytest.mark.parametrize("kind", ["JPEG", "TIFF", "WEBP", "PNG", "GIF"])
def test_a_picture_is_what_its_decoder_made(kind: str) -> None:
    """Resized without a copy to NumPy and back, it has the same pixels."""
    data = encoded(kind)
    picture, pixels = codec.decode_picture(data), codec.decode_image(data)
    assert isinstance(picture, np.ndarray) == (kind in ("PNG", "WEBP"))
    np.testing.assert_array_equal(np.asarray(picture), pixels)
    assert pixels.flags.writeable
    for rule in get_args(ResizeRule):
        np.testing.assert_array_equal(resize_image(picture, 32, rule), resize_image(pixels, 32, rule))


def test_other_formats_ignore_the_target() -> None:
    assert codec.decode_image(encoded("PNG"), target=4).shape == (30, 40, 3)


@settings(deadline=None)
@given(numpy_strategies.arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12), st.just(3))))
def test_png_round_trip(image: NDArray[np.uint8]) -> None:
    data = codec.encode_png(image)
    np.testing.assert_array_equal(codec.decode_image(data), image)
    Image.open(io.BytesIO(data)).verify()


def test_perceptual_hash_is_imagehashs() -> None:
    image = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
    digits = hashing.perceptual_hash(image)
    assert len(digits) == 64
    assert imagehash.hex_to_hash(digits) - imagehash.phash(Image.fromarray(image), hash_size=16) == 0


def test_perceptual_hash_of_a_scaled_copy_is_near_and_of_another_image_is_far() -> None:
    random = np.random.default_rng(0)
    one, other = (Image.fromarray(random.integers(0, 256, (12, 16, 3), np.uint8)).resize((320, 240)) for _ in range(2))
    hashes = [
        imagehash.hex_to_hash(hashing.perceptual_hash(np.asarray(picture)))
        for picture in (one, one.resize((200, 150)), other)
    ]
    assert hashes[0] - hashes[1] <= 10
    assert hashes[0] - hashes[2] >= 80


def test_every_registered_ending_but_those_of_stubs_and_eps_is_taken() -> None:
    Image.init()
    left_out = {"EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG"}
    readable = {kind for kind in Image.OPEN if kind not in left_out} | {"MPO"}
    endings = {end for end, kind in Image.registered_extensions().items() if kind in readable}
    assert set(IMAGE_ENDINGS) == endings | {".dcm", ".dicom"}
    assert set(codec.FORMATS) == readable - {"MPO"}


def test_a_picture_of_a_camera_with_several_frames() -> None:
    first = Image.fromarray(colours())
    data = save(first, "MPO", save_all=True, append_images=[first], quality=95)
    assert np.abs(codec.decode_image(data).astype(int) - colours()).mean() < 8
    assert codec.image_format(data) == "mpo"
