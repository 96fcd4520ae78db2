"""Odd image files, made here: one picture in many kinds of PNG, JPEG, WebP, TIFF and others, rare ones too."""

import io
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""first column, first row, and steps of each pass (W3C, "Portable Network Graphics, third edition", 2025, section 8)"""
_ORIENTATION = 274  # tag of EXIF and TIFF


def speckled_picture(height: int, width: int) -> NDArray[np.uint8]:
    """Return a picture like an ultrasound with a tinted lesion, uint8 (height, width, 3), without any symmetry."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width] / np.array([height, width])[:, None, None]
    echoes = Image.fromarray(np.clip(random.rayleigh(60, (height, width)), 0, 255).astype(np.uint8))
    grey = np.asarray(echoes.filter(ImageFilter.GaussianBlur(1.2))) * (1.6 - y) * (0.4 + 0.8 * x)
    lesion = ((x - 0.4) / 0.15) ** 2 + ((y - 0.55) / 0.2) ** 2 < 1
    grey = np.where(lesion, grey * 0.3, grey)
    tint = np.where(lesion[..., None], np.array([255, 59, 48]), grey[..., None])
    picture: NDArray[np.uint8] = np.clip(0.65 * grey[..., None] + 0.35 * tint, 0, 255).astype(np.uint8)
    return picture


def odd_images(height: int, width: int) -> dict[str, bytes]:
    """Return name -> image file of one picture in many kinds; each is decoded by `overlay.images.codec`."""
    picture = speckled_picture(height, width)
    return dict([*_png_files(picture), *_jpeg_files(picture), *_webp_files(picture), *_other_files(picture)])


def _png_files(picture: NDArray[np.uint8]) -> Iterator[tuple[str, bytes]]:
    image, deep = Image.fromarray(picture), picture.astype(np.uint16) * 256 + picture[::-1]
    yield "PNG, colour", _saved(image, "PNG")
    yield "PNG, grey", _saved(image.convert("L"), "PNG")
    yield "PNG, interlaced", interlaced_png(picture)
    yield "PNG, palette", _saved(image.quantize(64), "PNG")
    yield "PNG, 1 bit", _saved(image.convert("1"), "PNG")
    yield "PNG, grey of 16 bits", _saved(Image.fromarray(np.ascontiguousarray(deep[..., 1])), "PNG")
    yield "PNG, colour of 16 bits", plain_png(deep)
    yield "PNG, transparent", _saved(_with_alpha(picture), "PNG")
    yield "PNG, transparent colour", _saved(image.convert("L"), "PNG", transparency=40)
    yield "PNG, on its side", _saved(image, "PNG", exif=_turned(6))


def _jpeg_files(picture: NDArray[np.uint8]) -> Iterator[tuple[str, bytes]]:
    image = Image.fromarray(picture)
    yield "JPEG, 4:2:0", _saved(image, "JPEG", quality=92)
    yield "JPEG, 4:4:4", _saved(image, "JPEG", quality=92, subsampling="4:4:4")
    yield "JPEG, RGB", _saved(image, "JPEG", quality=92, keep_rgb=True)
    yield "JPEG, progressive", _saved(image, "JPEG", quality=92, progressive=True)
    yield "JPEG, quality 40", _saved(image, "JPEG", quality=40)
    yield "JPEG, grey", _saved(image.convert("L"), "JPEG", quality=92)
    yield "JPEG, CMYK", _saved(image.convert("CMYK"), "JPEG", quality=92)
    for orientation in range(2, 9):
        yield f"JPEG, EXIF orientation {orientation}", _saved(image, "JPEG", quality=92, exif=_turned(orientation))
    yield "MPO, two frames", _saved(image, "MPO", quality=92, save_all=True, append_images=[image])


def _webp_files(picture: NDArray[np.uint8]) -> Iterator[tuple[str, bytes]]:
    image = Image.fromarray(picture)
    yield "WebP, lossless", _saved(image, "WEBP", lossless=True)
    yield "WebP, lossy", _saved(image, "WEBP", quality=80)
    yield "WebP, lossless, transparent", _saved(_with_alpha(picture), "WEBP", lossless=True)
    yield "WebP, lossy, transparent", _saved(_with_alpha(picture), "WEBP", quality=80)
    yield "WebP, animated", _saved(image, "WEBP", lossless=True, save_all=True, append_images=[image.rotate(180)])


def _other_files(picture: NDArray[np.uint8]) -> Iterator[tuple[str, bytes]]:
    image, grey = Image.fromarray(picture), picture[..., 1]
    for compression in ("raw", "tiff_lzw", "tiff_deflate", "packbits", "jpeg"):
        yield f"TIFF, {compression.removeprefix('tiff_')}", _saved(image, "TIFF", compression=compression)
    yield "TIFF, fax", _saved(image.convert("1"), "TIFF", compression="group4")
    yield "TIFF, grey of 16 bits", _saved(Image.fromarray(grey.astype(np.uint16) * 257), "TIFF")
    yield "TIFF, floats", _saved(Image.fromarray(grey.astype(np.float32) / 255), "TIFF")
    yield "TIFF, CMYK", _saved(image.convert("CMYK"), "TIFF")
    yield "TIFF, on its side", _saved(image, "TIFF", tiffinfo={_ORIENTATION: 6})
    yield "GIF, one frame", _saved(image, "GIF")
    yield "GIF, animated", _saved(image, "GIF", save_all=True, append_images=[image.rotate(180)])
    yield "BMP, colour", _saved(image, "BMP")
    yield "BMP, palette", _saved(image.quantize(64), "BMP")
    yield "PPM", _saved(image, "PPM")
    yield "PGM of 16 bits", _saved(Image.fromarray(grey.astype(np.uint16) * 257), "PPM")
    yield "TGA, RLE", _saved(image, "TGA", compression="tga_rle")
    yield "JPEG 2000", _saved(image, "JPEG2000", quality_mode="rates", quality_layers=[20])
    yield "AVIF", _saved(image, "AVIF", quality=80)


def plain_png(pixels: NDArray[np.uint8] | NDArray[np.uint16]) -> bytes:
    """Return pixels, (height, width, 3) of 8 or 16 bits, as a PNG file without filters."""
    return _png(pixels, [pixels], interlaced=False)


def interlaced_png(pixels: NDArray[np.uint8] | NDArray[np.uint16]) -> bytes:
    """Return pixels, (height, width, 3) of 8 or 16 bits, as a PNG file in the seven passes of Adam7."""
    passes = (pixels[top::down, left::across] for left, top, across, down in _ADAM7)
    return _png(pixels, [each for each in passes if each.size], interlaced=True)


def _png(pixels: NDArray[Any], passes: list[NDArray[Any]], *, interlaced: bool) -> bytes:
    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.tobytes() for each in passes for row in each.astype(pixels.dtype.newbyteorder(">")))
    header = struct.pack(">IIBBBBB", width, height, 8 * pixels.itemsize, 2, 0, 0, interlaced)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def _with_alpha(picture: NDArray[np.uint8]) -> Image.Image:
    opacity = np.broadcast_to(np.linspace(0, 255, picture.shape[1]).astype(np.uint8), picture.shape[:2])
    return Image.fromarray(np.dstack([picture, opacity]))


def _turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[_ORIENTATION] = orientation
    return exif


def _saved(image: Image.Image, kind: str, **options: Any) -> bytes:  # noqa: ANN401 - options of a format's writer
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()
