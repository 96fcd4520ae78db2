"""DICOM images: header, and frames as RGB pixels by photometric interpretation, rescale and window.

Needs pydicom (the extra ``dicom``), which is imported where a DICOM file is met. The standard is cited by its parts
(PS3.3 and so on, 2024). Regions of ultrasound with burned-in annotations are kept: nothing is cropped.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from overlay.errors import ErrorKind, ImageError, one_line
from overlay.images.decoder_state import decoding
from overlay.images.depth import scale

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

NEEDS_PYDICOM = "DICOM, which needs the package pydicom: install overlay[dicom]"
"""reason of a DICOM file where pydicom is missing"""
HEAD_BYTES = 132
"""bytes by which `is_dicom` tells a file"""
_OLD = (b"\x08\x00\x00\x00", b"\x08\x00\x01\x00", b"\x08\x00\x05\x00", b"\x08\x00\x08\x00", b"\x08\x00\x16\x00")


@dataclass(frozen=True)
class DicomHeader:
    """What is known of a DICOM file without its pixels."""

    frames: int
    patient: str
    """PatientID; empty where there is none"""
    study: str
    """StudyInstanceUID; empty where there is none"""


def is_dicom(head: bytes) -> bool:
    """Whether the first bytes of a file, ``HEAD_BYTES`` or more, are those of DICOM (PS3.10 7.1), or of its group 8."""
    return head[128:132] == b"DICM" or head[:4] in _OLD


def read_header(file: BinaryIO) -> DicomHeader:
    """Read the header of a DICOM file.

    Raises:
        ImageError: pydicom is missing, or the file is damaged; the message is the reason.
        OSError: the file can't be read.
    """
    dataset = _read(file, ["NumberOfFrames", "PatientID", "StudyInstanceUID"])
    try:
        return DicomHeader(
            int(dataset.get("NumberOfFrames") or 1),
            str(dataset.get("PatientID") or "").strip(),
            str(dataset.get("StudyInstanceUID") or "").strip(),
        )
    except (TypeError, ValueError) as error:
        raise ImageError(f"damaged DICOM: {one_line(error)}") from error


def decode_frame(data: bytes, frame: int | None, max_pixels: int) -> NDArray[np.uint8]:
    """Return one frame of a DICOM file, counted from 0, as RGB pixels, uint8 (height, width, 3); None for the only one.

    Grey values are transformed by the modality LUT or rescale, and then by the first VOI LUT or window of the file
    (PS3.3 C.11.1, C.11.2). Without either, the range is that of BitsStored. MONOCHROME1 is inverted; YBR and palettes
    become RGB.

    Raises:
        ImageError: pydicom is missing, or the file is damaged, too large, compressed in an unsupported way, or without
            pixels.
    """
    dataset = _read(io.BytesIO(data))
    from pydicom.pixels.processing import apply_color_lut
    from pydicom.pixels.utils import pixel_array

    if "PixelData" not in dataset:
        raise ImageError("DICOM without an image: it has no PixelData")
    try:
        height, width, frames = int(dataset.Rows), int(dataset.Columns), int(dataset.get("NumberOfFrames") or 1)
        if height * width > max_pixels:
            said = f"too many pixels: {width} x {height}, more than {max_pixels} (max_pixels)"
            raise ImageError(said, ErrorKind.TOO_LARGE)
        if frame is None and frames > 1:
            raise ImageError(
                f"DICOM of {frames} frames, which were not listed: give it as a file, not in an archive",
                ErrorKind.REFUSED,
            )
        frame = frame or 0
        if frame >= frames:
            raise ImageError(f"damaged DICOM: it has {frames} frames, none of number {frame}")
        with decoding(max_pixels):
            values = pixel_array(io.BytesIO(data), index=frame)
            if dataset.PhotometricInterpretation == "PALETTE COLOR":
                values = apply_color_lut(values, dataset)
                return scale(values[..., :3], 0, np.iinfo(values.dtype).max)
            if int(dataset.get("SamplesPerPixel", 1)) == 3:
                return scale(values, 0, 2 ** _bit_depth(dataset.BitsStored) - 1)
            grey = _to_display(values, dataset, frame)
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # damaged files raise exceptions of any type, and so do missing decoders
        raise ImageError(f"damaged or unsupported DICOM: {one_line(error)}") from error
    inverted = dataset.PhotometricInterpretation == "MONOCHROME1"
    return np.repeat((255 - grey if inverted else grey)[..., np.newaxis], 3, axis=2)


def _read(file: BinaryIO, tags: list[str] | None = None) -> "Dataset":
    """Read a data set; with ``tags`` only these, without the pixels."""
    try:
        import pydicom
    except ImportError as error:
        raise ImageError(NEEDS_PYDICOM, ErrorKind.REFUSED) from error
    with decoding():
        try:
            return pydicom.dcmread(file, force=True, stop_before_pixels=tags is not None, specific_tags=tags)
        except (OSError, MemoryError):
            raise
        except Exception as error:  # as in decode_frame
            raise ImageError(f"damaged DICOM: {one_line(error)}") from error


def _to_display(values: NDArray[Any], dataset: "Dataset", frame: int) -> NDArray[np.uint8]:
    """Return stored grey values as values of a display, uint8 (height, width)."""
    from pydicom.pixels.processing import apply_modality_lut, apply_voi

    stored = _bit_depth(dataset.BitsStored)
    signed = int(dataset.get("PixelRepresentation", 0)) == 1
    low, high = (-(2 ** (stored - 1)), 2 ** (stored - 1) - 1) if signed else (0, 2**stored - 1)
    if dataset.get("ModalityLUTSequence"):
        bits = _bit_depth(dataset.ModalityLUTSequence[0].LUTDescriptor[2])
        values, low, high = apply_modality_lut(values, dataset), 0, 2**bits - 1
        slope, intercept = 1.0, 0.0
    else:
        slope = float(_find(dataset, frame, "RescaleSlope") or 1)
        intercept = float(_find(dataset, frame, "RescaleIntercept") or 0)
    if dataset.get("VOILUTSequence"):
        bits = _bit_depth(dataset.VOILUTSequence[0].LUTDescriptor[2])
        return scale(apply_voi((values * slope + intercept).astype(np.int64), dataset), 0, 2**bits - 1)
    center, width = _first(_find(dataset, frame, "WindowCenter")), _first(_find(dataset, frame, "WindowWidth"))
    if center is None or not width or width < 1:
        return scale(values, low, high)
    return _window(values * slope + intercept, center, width, str(dataset.get("VOILUTFunction") or "LINEAR"))


def _bit_depth(value: Any) -> int:  # noqa: ANN401 - the value of any attribute
    if not 1 <= (bits := int(value)) <= 32:
        raise ImageError(f"damaged DICOM: values of {bits} bits")
    return bits


def _window(values: NDArray[Any], center: float, width: float, function: str) -> NDArray[np.uint8]:
    """Apply a window by PS3.3 C.11.2.1.2 and C.11.2.1.3."""
    if function == "SIGMOID":
        return np.rint(255 / (1 + np.exp(-4 * (values - center) / width))).astype(np.uint8)
    if function == "LINEAR_EXACT":
        return scale(values, center - width / 2, center + width / 2)
    if width == 1:
        return np.where(values <= center - 0.5, 0, 255).astype(np.uint8)
    return scale(values, center - 0.5 - (width - 1) / 2, center - 0.5 + (width - 1) / 2)


def _find(dataset: "Dataset", frame: int, keyword: str) -> Any:  # noqa: ANN401 - the value of any attribute
    """Return an attribute of the data set or, in enhanced multi-frame images, of the frame's functional groups."""
    for group in _functional_groups(dataset, frame):
        for element in group:
            if element.VR == "SQ" and element.value and element.value[0].get(keyword) is not None:
                return element.value[0].get(keyword)
    return dataset.get(keyword)


def _functional_groups(dataset: "Dataset", frame: int) -> Iterator["Dataset"]:
    by_frame = dataset.get("PerFrameFunctionalGroupsSequence") or []
    if frame < len(by_frame):
        yield by_frame[frame]
    yield from list(dataset.get("SharedFunctionalGroupsSequence") or [])[:1]


def _first(value: Any) -> float | None:  # noqa: ANN401 - a number, several numbers, or nothing
    from pydicom.multival import MultiValue

    if isinstance(value, MultiValue):
        value = value[0] if value else None
    return None if value is None or value == "" else float(value)
