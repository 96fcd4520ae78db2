"""Image codec: decoding of image files to RGB uint8 arrays or to an error reason, and encoding as PNG.

The only decoder of the project: prepare, train and predict call it. It imports Pillow, numpy, a PNG and a DEFLATE
library only, so that data tasks start quickly; DICOM, TIFF files that Pillow can't read, and plain PNG and WebP files
have modules of their own.
"""

import io
import struct
from typing import TypedDict

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from overlay.config import MAX_PIXELS
from overlay.errors import ErrorKind, ImageError
from overlay.images import dicom
from overlay.images.decoder_state import decoding
from overlay.images.depth import SIGNIFICANT_BITS, read_significant_bits, to_8_bit
from overlay.images.multichannel import decode_channels, is_tiff
from overlay.images.png import SIGNATURE, decode_plain_png
from overlay.images.webp import decode_plain_webp

FORMATS = (
    *("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "AVIF", "JPEG2000", "PPM", "BLP", "CUR", "DCX", "DDS", "DIB"),
    *("FITS", "FLI", "FTEX", "GBR", "ICNS", "ICO", "IM", "IMT", "IPTC", "MCIDAS", "MSP", "PCD", "PCX", "PIXAR"),
    *("PSD", "QOI", "SGI", "SPIDER", "SUN", "XBM", "XPM", "XVTHUMB", "TGA"),
)
"""supported formats, by Pillow's names, in the order in which they are tried; of Pillow's others, EPS starts
Ghostscript, WMF needs Windows, and BUFR, GRIB, HDF5 and MPEG are stubs"""

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


class UnknownFormat(ImageError):
    """File in none of ``FORMATS``."""


Picture = NDArray[np.uint8] | Image.Image
"""decoded image: uint8 (height, width, 3), or a Pillow image in the mode RGB, whichever its decoder made"""


def decode_image(
    data: bytes,
    *,
    max_pixels: int = MAX_PIXELS,
    target: int | None = None,
    frame: int | None = None,
    bits: int | None = None,
) -> NDArray[np.uint8]:
    """Return the pixels of an image file, uint8 (height, width, 3), upright by its EXIF orientation.

    The content decides the format, never a file name. Of an animated or multi-page file the first frame is decoded, of
    a DICOM file the ``frame``, counted from 0, by the rules of `overlay.images.dicom`. Transparency is composited on
    black. Colour profiles are not applied. Grey values of more than 8 bits are scaled by the rules of
    `overlay.images.depth.to_8_bit`, with ``bits`` for files without a tag; in colour, Pillow keeps the upper 8 of 16
    bits. Of a TIFF with more channels than a colour has, the first three are taken.

    ``target``: a JPEG much larger than this is decoded at 1/2, 1/4 or 1/8 of its size (DCT scaling), which is several
    times faster; its shorter side never falls below ``target`` pixels.

    Raises:
        ImageError: the bytes are not an image in one of ``FORMATS``, are damaged or truncated, or declare more than
            ``max_pixels`` pixels, which is checked before decoding.
    """
    # np.array, since np.asarray of a Pillow image is read-only, of which torch warns.
    picture = decode_picture(data, max_pixels=max_pixels, target=target, frame=frame, bits=bits)
    return np.array(picture) if isinstance(picture, Image.Image) else picture


def decode_picture(
    data: bytes,
    *,
    max_pixels: int = MAX_PIXELS,
    target: int | None = None,
    frame: int | None = None,
    bits: int | None = None,
) -> Picture:
    """Return the pixels of `decode_image` as their decoder made them, without a copy from Pillow to NumPy.

    Raises:
        ImageError: as `decode_image`.
    """
    if dicom.is_dicom(data):
        return dicom.decode_frame(data, frame, max_pixels)
    for decode_plain in (decode_plain_png, decode_plain_webp):
        if (plain := decode_plain(data, max_pixels)) is not None:
            return plain
    try:
        image = open_image(data, max_pixels=max_pixels, target=target)
    except UnknownFormat:
        if is_tiff(data):
            return decode_channels(data, max_pixels)
        raise
    with decoding(max_pixels):
        try:
            return _upright_rgb(image, bits)
        except Exception as error:  # as in open_image
            raise _failure(f"damaged {image.format}", error) from error


def open_image(data: bytes, *, max_pixels: int = MAX_PIXELS, target: int | None = None) -> Image.Image:
    """Return an image file as a decoded Pillow image in its own mode, by the limits of `decode_image`.

    Raises:
        ImageError: as `decode_image`.
    """
    if not data:
        raise ImageError("empty file")
    with decoding(max_pixels):
        try:
            image = Image.open(io.BytesIO(data), formats=FORMATS)
        except UnidentifiedImageError:
            raise UnknownFormat("no image that can be read, by its content") from None
        except Exception as error:  # damaged files make Pillow's plugins raise exceptions of any type
            raise _failure("damaged image", error) from error
        if image.width * image.height > max_pixels:
            said = f"too many pixels: {image.width} x {image.height}, more than {max_pixels} (max_pixels)"
            raise ImageError(said, ErrorKind.TOO_LARGE)
        try:
            if target is not None:
                image.draft(None, (target, target))
            image.load()
            if image.format == "PNG" and (significant := read_significant_bits(data)):
                image.info[SIGNIFICANT_BITS] = significant
        except Exception as error:
            raise _failure(f"damaged {image.format}", error) from error
        return image


class StoredImage(TypedDict):
    """Image file in a table: the struct of bytes and path of Hugging Face's `Image` feature."""

    bytes: bytes
    path: str


def image_format(data: bytes) -> str:
    """Return the format of an image file in lower case, such as png, jpeg or dicom.

    Raises:
        ImageError: the bytes are not an image in one of ``FORMATS``.
    """
    if dicom.is_dicom(data):
        return "dicom"
    try:
        with decoding(), Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return str(image.format).lower()
    except UnidentifiedImageError:
        if is_tiff(data):
            return "tiff"
        raise UnknownFormat("no image that can be read, by its content") from None
    except Exception as error:  # as in decode_image
        raise _failure("damaged image", error) from error


def is_larger(data: bytes, side: int) -> bool:
    """Whether the longer side of an image, by the header of its file, is above ``side`` pixels; false for DICOM."""
    try:
        with decoding(), Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return max(image.size) > side
    except Exception:  # as in decode_image, which tells the reason
        return False


def keeps_its_bytes(data: bytes, bits: int | None) -> bool:
    """Whether an image file that `decode_image` reads may be stored as it is.

    Not DICOM, which names its patient; not what Pillow can't read; not greys that are scaled to ``bits``.
    """
    try:
        with decoding(), Image.open(io.BytesIO(data), formats=FORMATS) as image:
            deep = image.mode == "F" or image.mode.startswith("I")
            return not dicom.is_dicom(data) and not (deep and bits)
    except Exception:  # as in decode_image
        return False


def image_to_array(image: Image.Image, bits: int | None = None) -> NDArray[np.uint8]:
    """Return the pixels of a Pillow image, uint8 (height, width, 3), by the rules of `decode_image`."""
    return np.array(_upright_rgb(image, bits))  # as in decode_image


def _upright_rgb(image: Image.Image, bits: int | None) -> Image.Image:
    return turn_upright(_to_rgb(image, bits), image)


def turn_upright(pixels: Image.Image, image: Image.Image) -> Image.Image:
    """Return the pixels of an image, perhaps in another mode, upright by the EXIF orientation of ``image``."""
    # Not ImageOps.exif_transpose: it also rewrites the EXIF block, and fails where another tag is invalid.
    turn = _TO_UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    return pixels if turn is None else pixels.transpose(turn)


def is_white_zero(image: Image.Image) -> bool:
    """Whether a TIFF says that its zero is white, which Pillow inverts for up to 8 bits only."""
    return bool(getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == _WHITE_IS_ZERO)


def encode_png(image: NDArray[np.uint8] | NDArray[np.bool_]) -> bytes:
    """Return an image, (height, width, 3), or a mask, (height, width), as a PNG file; lossless.

    Each row of an image is filtered by the filter Sub alone and compressed by ISA-L (DEFLATE), in about a seventh of
    the time of Pillow's encoder at its fastest level, which tries all five filters, and for ultrasound into no more
    bytes. (W3C, "Portable Network Graphics, third edition", 2025, sections 5, 9 and 10.)
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
    np.subtract(values[:, channels:], values[:, :-channels], out=rows[:, 1 + channels :])  # modulo 256, as specified
    header = struct.pack(">IIBBBBB", width, height, 8, _TRUECOLOUR, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", isal_zlib.compress(rows, 2)), (b"IEND", b""))
    return SIGNATURE + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", isal_zlib.crc32(data, isal_zlib.crc32(kind)))
        for kind, data in chunks
    )


def _to_rgb(image: Image.Image, bits: int | None = None) -> Image.Image:
    if image.mode == "F" or image.mode.startswith("I"):
        grey = to_8_bit(image, bits)
        inverted = image.mode != "F" and is_white_zero(image)
        return Image.fromarray(255 - grey if inverted else grey).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        black = Image.new("RGB", image.size)
        black.paste(image, mask=image.getchannel("A"))
        return black
    return image if image.mode == "RGB" else image.convert("RGB")  # which would copy it


def _failure(what: str, error: Exception) -> ImageError:
    """Return the error of an image that Pillow can't decode, with one line of at most 200 characters.

    Raises:
        MemoryError: it is the cause.
    """
    if isinstance(error, MemoryError):
        raise error
    said = " ".join(str(error).split()) or type(error).__name__
    bomb = isinstance(error, Image.DecompressionBombError)
    return ImageError(f"{what}: {said}"[:200], ErrorKind.TOO_LARGE if bomb else ErrorKind.DAMAGED)
