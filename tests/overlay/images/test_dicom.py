import builtins
import io
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, ExplicitVRLittleEndian, JPEGBaseline8Bit, UltrasoundMultiFrameImageStorage

from overlay.errors import ImageError
from overlay.images.codec import decode_image, image_format
from overlay.images.dicom import DicomHeader, is_dicom, read_header


def dicom(pixels: NDArray[Any], photometric: str = "MONOCHROME2", **tags: Any) -> bytes:  # noqa: ANN401
    """A DICOM file of uncompressed pixels: (height, width), (height, width, 3), or either for each frame."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = UltrasoundMultiFrameImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = UID("1.2.3")
    dataset.SOPClassUID, dataset.SOPInstanceUID = UltrasoundMultiFrameImageStorage, UID("1.2.3")
    dataset.PatientName, dataset.PatientID, dataset.StudyInstanceUID = "Doe^Jane", "P007", UID("1.2.3.4")
    shape = pixels.shape[1:] if "NumberOfFrames" in tags else pixels.shape
    dataset.Rows, dataset.Columns = shape[:2]
    dataset.SamplesPerPixel = shape[2] if len(shape) == 3 else 1
    if dataset.SamplesPerPixel == 3:
        dataset.PlanarConfiguration = 0
    dataset.PhotometricInterpretation = photometric
    dataset.BitsAllocated = dataset.BitsStored = 8 * pixels.dtype.itemsize
    dataset.PixelRepresentation = int(np.issubdtype(pixels.dtype, np.signedinteger))
    dataset.PixelData = pixels.tobytes()
    for name, value in tags.items():
        setattr(dataset, name, value)
    dataset.HighBit = dataset.BitsStored - 1
    stream = io.BytesIO()
    pydicom.dcmwrite(stream, dataset, enforce_file_format=True)
    return stream.getvalue()


def row(data: bytes, frame: int = 0) -> list[int]:
    values: list[int] = decode_image(data, frame=frame)[0, :, 0].tolist()
    return values


def test_8_bit_greys_and_their_inverse() -> None:
    grey = np.array([[0, 51, 200, 255]], np.uint8)
    np.testing.assert_array_equal(decode_image(dicom(grey)), np.repeat(grey[..., np.newaxis], 3, axis=2))
    assert row(dicom(grey, "MONOCHROME1")) == [255, 204, 55, 0]
    assert image_format(dicom(grey)) == "dicom"


def test_the_range_is_that_of_the_stored_bits() -> None:
    grey = np.array([[0, 819, 1365, 4095]], np.uint16)
    assert row(dicom(grey, BitsStored=12)) == [0, 51, 85, 255]
    assert row(dicom(grey)) == [0, 3, 5, 16]
    signed = np.array([[-2048, 0, 2047]], np.int16)
    assert row(dicom(signed, BitsStored=12)) == [0, 128, 255]


def test_rescale_and_window() -> None:
    grey = np.array([[0, 100, 150, 200, 4000]], np.uint16)
    # PS3.3 C.11.2.1.2: ((x - (c - 0.5)) / (w - 1) + 0.5) * 255
    assert row(dicom(grey, WindowCenter=150, WindowWidth=101)) == [0, 1, 129, 255, 255]
    shifted: dict[str, Any] = {
        "RescaleSlope": 2,
        "RescaleIntercept": -100,
        "WindowCenter": [200, 7],
        "WindowWidth": [201, 7],
    }
    assert row(dicom(grey, **shifted)) == [0, 1, 128, 255, 255]
    assert row(dicom(grey, VOILUTFunction="LINEAR_EXACT", WindowCenter=150, WindowWidth=100)) == [0, 0, 128, 255, 255]
    assert row(dicom(grey, VOILUTFunction="SIGMOID", WindowCenter=150, WindowWidth=100)) == [1, 30, 128, 225, 255]
    assert row(dicom(grey, "MONOCHROME1", WindowCenter=150, WindowWidth=101)) == [255, 254, 126, 0, 0]


def test_a_window_of_a_frame() -> None:
    frames = np.array([[[0, 100]], [[0, 100]]], np.uint8)
    windows = []
    for width in (101, 201):
        voi = Dataset()
        voi.WindowCenter, voi.WindowWidth = width / 2, width
        group = Dataset()
        group.FrameVOILUTSequence = [voi]
        windows.append(group)
    data = dicom(frames, NumberOfFrames=2, PerFrameFunctionalGroupsSequence=windows)
    assert [row(data, 0), row(data, 1)] == [[0, 255], [0, 128]]


def test_colours() -> None:
    rgb = np.array([[[255, 0, 0], [10, 200, 30]]], np.uint8)
    np.testing.assert_array_equal(decode_image(dicom(rgb, "RGB")), rgb)
    ybr = np.asarray(Image.fromarray(rgb).convert("YCbCr"))
    assert np.abs(decode_image(dicom(ybr, "YBR_FULL")).astype(int) - rgb).max() <= 2
    table = np.array([0, 65535, 32768], "<u2").tobytes()
    palette: dict[str, Any] = {f"{colour}PaletteColorLookupTableData": table for colour in ("Red", "Green", "Blue")}
    palette |= {f"{colour}PaletteColorLookupTableDescriptor": [3, 0, 16] for colour in ("Red", "Green", "Blue")}
    assert row(dicom(np.array([[0, 1, 2]], np.uint8), "PALETTE COLOR", **palette)) == [0, 255, 128]


def test_each_frame_of_ten() -> None:
    frames = np.arange(10, dtype=np.uint8)[:, np.newaxis, np.newaxis] * np.full((1, 3, 4), 20, np.uint8)
    data = dicom(frames, NumberOfFrames=10)
    assert [decode_image(data, frame=frame)[2, 3].tolist() for frame in (0, 4, 9)] == [[0] * 3, [80] * 3, [180] * 3]
    assert read_header(io.BytesIO(data)) == DicomHeader(10, "P007", "1.2.3.4")
    with pytest.raises(ImageError, match="it has 10 frames, none of number 10"):
        decode_image(data, frame=10)


def test_a_compressed_frame() -> None:
    rgb = np.full((16, 16, 3), (200, 60, 60), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(rgb).save(stream, "JPEG", quality=95)
    dataset = pydicom.dcmread(io.BytesIO(dicom(rgb, "YBR_FULL_422")))
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    dataset.PixelData = encapsulate([stream.getvalue()])
    dataset["PixelData"].VR = "OB"
    out = io.BytesIO()
    pydicom.dcmwrite(out, dataset, enforce_file_format=True)
    assert np.abs(decode_image(out.getvalue()).astype(int) - rgb).max() <= 3


def test_what_can_not_be_used_is_a_reason() -> None:
    with pytest.raises(ImageError, match=r"damaged .*DICOM"):
        decode_image(dicom(np.zeros((4, 4), np.uint16), BitsStored=40))
    whole = dicom(np.zeros((4, 5), np.uint8))
    assert is_dicom(whole)
    with pytest.raises(ImageError, match="too many pixels: 5 x 4, more than 19"):
        decode_image(whole, max_pixels=19)
    with pytest.raises(ImageError, match="damaged or unsupported DICOM"):
        decode_image(whole[:-6])
    dataset = pydicom.dcmread(io.BytesIO(whole))
    del dataset.PixelData
    out = io.BytesIO()
    pydicom.dcmwrite(out, dataset, enforce_file_format=True)
    with pytest.raises(ImageError, match="DICOM without an image"):
        decode_image(out.getvalue())


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def without(name: str, *rest: Any) -> Any:  # noqa: ANN401
        if name.startswith("pydicom"):
            raise ImportError(name)
        return original(name, *rest)

    data = dicom(np.zeros((4, 5), np.uint8))
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImageError, match=r"needs the package pydicom: install overlay\[dicom\]"):
        decode_image(data)
