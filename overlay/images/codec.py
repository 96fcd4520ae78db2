"""From bytes to pixels: every image becomes an RGB uint8 array, or a reason why it can't.

The one decoder of the project: prepare, train and predict see an image through it. Pillow, numpy and a deflater only,
so that data tasks start quickly.
"""

import io
import struct
import warnings
from typing import Any, TypedDict

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from overlay.config import MAX_PIXELS, ResizeRule
from overlay.errors import ImageError

FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "AVIF", "JPEG2000", "PPM")
"""What is read, by Pillow's names. The rest of Pillow's list is left out: EPS starts Ghostscript, others are stubs."""

_TO_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0
_TRUECOLOUR, _FILTER_SUB = 2, 1  # numbers of the PNG specification


def decode_image(data: bytes, *, max_pixels: int = MAX_PIXELS, target: int | None = None) -> NDArray[np.uint8]:
    """Return the pixels of an image file, (height, width, 3), upright by its EXIF orientation.

    The content decides the format, never a file's name. Of an animated or multi-page file the first picture counts.
    Transparency is composited on black. Colour profiles are not applied. More than 8 bits in grey are scaled by the
    rules of :func:`to_8_bit`; in colour, Pillow keeps the upper 8 of 16 bits.

    ``target``: a JPEG much larger than this is decoded at 1/2, 1/4 or 1/8 of its size, which is several times faster;
    its shorter side never falls below ``target`` pixels.

    Raises:
        ImageError: the bytes are no image in one of ``FORMATS``, are damaged or cut off, or declare more than
            ``max_pixels`` pixels, which is looked at before any are decoded. (Pillow's own limit of 178,956,970 holds
            above that.)
    """
    if not data:
        raise ImageError("empty file")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            image = Image.open(io.BytesIO(data), formats=FORMATS)
        except UnidentifiedImageError:
            raise ImageError(f"no image that can be read ({', '.join(FORMATS)})") from None
        except Exception as error:  # Pillow's plugins raise whatever the damage happens to trip over
            raise ImageError(_reason("damaged image", error)) from error
        if image.width * image.height > max_pixels:
            raise ImageError(f"too many pixels: {image.width} x {image.height}, more than {max_pixels} (max_pixels)")
        try:
            if target is not None:
                image.draft(None, (target, target))
            image.load()
            return image_to_array(image)
        except Exception as error:
            raise ImageError(_reason(f"damaged {image.format}", error)) from error


class StoredImage(TypedDict):
    """An image file in a table: Hugging Face's struct of bytes and path."""

    bytes: bytes
    path: str


def image_format(data: bytes) -> str:
    """Return the format of an image file that `decode_image` takes, such as png or jpeg.

    Raises:
        ImageError: the bytes are no such file.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return str(image.format).lower()
    except Exception as error:  # as in decode_image
        raise ImageError(_reason("damaged image", error)) from error


def image_to_array(image: Image.Image) -> NDArray[np.uint8]:
    """Return a Pillow image as :func:`decode` would, (height, width, 3)."""
    # Not ImageOps.exif_transpose: it also rewrites the EXIF block, and fails where another tag is odd.
    turn = _TO_UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    rgb = _to_rgb(image)
    # np.array, since np.asarray of a Pillow image can't be written to, of which torch warns.
    return np.array(rgb if turn is None else rgb.transpose(turn))


def to_8_bit(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Return grey values of any number type in 0..255, without clipping.

    - Integers from 0 to 65535: the full range is taken to be the smallest of 8, 10, 12, 14 and 16 bits that holds the
      largest value, so that 12-bit data in a 16-bit file are divided by 4095, and images of one device keep their
      brightness relative to each other.
    - Floats within 0..1 are multiplied by 255, floats within 0..255 stay.
    - Anything else (signed, 32-bit) is stretched from its smallest to its largest value. NaN and infinity are black.
    """
    whole = np.issubdtype(values.dtype, np.integer)
    if whole and values.min() >= 0 and values.max() <= 65535:
        top = next(2**bits - 1 for bits in (8, 10, 12, 14, 16) if values.max() < 2**bits)
        table = np.rint(np.arange(top + 1) * (255 / top)).astype(np.uint8)
        return np.take(table, values)
    finite = np.isfinite(values)
    numbers = np.where(finite, values, 0).astype(np.float64)
    low, high = (numbers[finite].min(), numbers[finite].max()) if finite.any() else (0.0, 0.0)
    if not whole and low >= 0 and high <= 255:
        low, high = 0.0, 1.0 if high <= 1 else 255.0
    scaled = (numbers - low) * (255 / (high - low) if high > low else 0)
    return np.where(finite, np.rint(scaled), 0).astype(np.uint8)


def decode_target(size: int, rule: ResizeRule) -> int:
    """Return the ``target`` to decode with for a later ``resize(image, size, rule)``: pixels of the shorter side."""
    return round(size * 256 / 224) if rule == "crop" else size


def resize_image(image: NDArray[np.uint8], size: int, rule: ResizeRule) -> NDArray[np.uint8]:
    """Return an image, (height, width, 3), as a square, (size, size, 3); bilinear with antialiasing.

    ``squash`` changes the aspect ratio. ``pad`` keeps it, centred on black. ``crop`` scales the shorter side to
    ``round(size * 256 / 224)`` and takes the centre, as torchvision's ``Resize(256), CenterCrop(224)`` does.
    """
    picture = Image.fromarray(image)
    width, height = picture.size
    if rule == "squash":
        return np.array(_scale(picture, size, size))
    if rule == "pad":
        factor = size / max(width, height)
        scaled = _scale(picture, max(1, round(width * factor)), max(1, round(height * factor)))
        square = Image.new("RGB", (size, size))
        square.paste(scaled, ((size - scaled.width) // 2, (size - scaled.height) // 2))
        return np.array(square)
    # The crop's box in the source: the same pixels as scaling all of it first, without the memory for a long strip.
    shorter = decode_target(size, rule)
    scaled_width = max(shorter, int(shorter * width / height))
    scaled_height = max(shorter, int(shorter * height / width))
    left, top = round((scaled_width - size) / 2), round((scaled_height - size) / 2)
    across, down = width / scaled_width, height / scaled_height
    box = (left * across, top * down, (left + size) * across, (top + size) * down)
    return np.array(_scale(picture, size, size, box))


def encode_png(image: NDArray[np.uint8] | NDArray[np.bool_]) -> bytes:
    """Return an image, (height, width, 3), or a mask, (height, width), as a PNG; lossless.

    Each row of an image is filtered by the one filter Sub and deflated by ISA-L, in about a seventh of the time of
    Pillow's encoder at its fastest level, which tries all five filters, and for ultrasound into no more bytes. (W3C,
    "Portable Network Graphics, third edition", 2025, sections 5, 9 and 10.)
    """
    if image.ndim == 2:
        stream = io.BytesIO()
        Image.fromarray(image).save(stream, "PNG", compress_level=1)
        return stream.getvalue()
    height, width, channels = image.shape
    values = image.reshape(height, width * channels)
    rows = np.empty((height, 1 + width * channels), np.uint8)
    rows[:, 0] = _FILTER_SUB
    rows[:, 1 : 1 + channels] = values[:, :channels]
    np.subtract(values[:, channels:], values[:, :-channels], out=rows[:, 1 + channels :])  # modulo 256, as it should
    header = struct.pack(">IIBBBBB", width, height, 8, _TRUECOLOUR, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", isal_zlib.compress(rows, 2)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", isal_zlib.crc32(data, isal_zlib.crc32(kind)))
        for kind, data in chunks
    )


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F" or image.mode.startswith("I"):
        grey = to_8_bit(np.asarray(image))
        # Pillow inverts such a TIFF up to 8 bits only.
        inverted = image.mode != "F" and getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == _WHITE_IS_ZERO
        return Image.fromarray(255 - grey if inverted else grey).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        black = Image.new("RGB", image.size)
        black.paste(image, mask=image.getchannel("A"))
        return black
    return image.convert("RGB")


def _scale(
    picture: Image.Image, width: int, height: int, box: tuple[float, float, float, float] | None = None
) -> Image.Image:
    # reducing_gap 3: sources of more than six times the size are first reduced by a whole factor; "almost
    # indistinguishable from fair resampling" (Pillow's documentation).
    return picture.resize((width, height), Image.Resampling.BILINEAR, box, 3.0)


def _reason(what: str, error: Exception) -> str:
    """Return one line of at most 200 characters."""
    said = " ".join(str(error).split()) or type(error).__name__
    return f"{what}: {said}"[:200]
