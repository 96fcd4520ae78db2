import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from overlay.config import Limits, OverlayStyle
from overlay.errors import ImageError
from overlay.images.codec import decode_image
from overlay.images.ref import ImageRef
from overlay.images.render import RenderOptions, render_row
from overlay.sources.dicom_frames import DicomOrigin
from overlay.sources.input_folder import list_folder
from overlay.sources.inputs import ListingRule, list_members
from overlay.sources.reader import Reader
from overlay.storage.path import StoragePath
from tests.overlay.images.test_dicom import dicom

RULE = ListingRule("", Limits())


def frames(count: int) -> bytes:
    pixels = np.arange(count, dtype=np.uint8)[:, np.newaxis, np.newaxis] * np.full((1, 4, 5), 20, np.uint8)
    return dicom(pixels, NumberOfFrames=count)


def listed(folder: Path, rule: ListingRule = RULE) -> list[ImageRef]:
    return [ref for portion in list_folder(StoragePath.of(folder), rule) for ref in portion.images]


def test_one_input_a_frame_and_each_is_read(tmp_path: Path) -> None:
    (tmp_path / "cine.dcm").write_bytes(frames(3))
    (tmp_path / "IM0001").write_bytes(frames(1))
    (tmp_path / "1.2.840.1").write_bytes(frames(1))
    (tmp_path / "README").write_text("nothing")
    Image.fromarray(np.zeros((4, 5), np.uint8)).save(tmp_path / "still.png")
    refs = listed(tmp_path)
    uri = str(tmp_path / "cine.dcm")
    assert [(ref.id, ref.uri, ref.member, ref.frame) for ref in refs if "cine" in ref.id] == [
        (f"cine.dcm#{number}", uri, f"cine.dcm#{number}", number) for number in range(3)
    ]
    assert [ref.id for ref in refs if "cine" not in ref.id] == ["1.2.840.1", "IM0001", "still.png"]
    with Reader() as reader:
        for ref in refs:
            row = render_row(ref, RenderOptions(OverlayStyle(), 100), reader.read_function(ref))
            assert decode_image(row["image"]["bytes"])[0, 0, 0] == 20 * (ref.frame or 0)
            assert (row["encoding"], row["frame"]) == ("png", ref.frame)
            assert b"Doe" not in row["image"]["bytes"]


def test_frames_in_an_archive(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("x/cine.dcm", frames(2))
    (portion,) = list_members(StoragePath.of(tmp_path / "a.zip"), RULE)
    assert [(ref.id, ref.member, ref.name) for ref in portion.images] == [
        (f"x/cine.dcm#{number}", f"x/cine.dcm#{number}", "x/cine.dcm") for number in range(2)
    ]
    with Reader() as reader:
        for ref in portion.images:
            data = reader.read_function(ref)(ref.name)
            assert decode_image(data, frame=ref.frame)[0, 0, 0] == 20 * (ref.frame or 0)


def test_frames_that_were_not_listed_are_a_reason() -> None:
    with pytest.raises(ImageError, match="DICOM of 3 frames, which were not listed"):
        decode_image(frames(3))


def test_a_mask_can_not_belong_to_several_frames(tmp_path: Path) -> None:
    (tmp_path / "cine.dcm").write_bytes(frames(2))
    Image.fromarray(np.zeros((4, 5), np.uint8)).save(tmp_path / "cine_mask.png")
    (ref,) = listed(tmp_path)
    assert ref.reason == "a mask for 2 frames; give each frame a mask of its own"


def test_origins_are_hashes_and_only_for_a_preparation(tmp_path: Path) -> None:
    (tmp_path / "p007.dcm").write_bytes(frames(1))
    (tmp_path / "x.dcm").write_bytes(dicom(np.zeros((4, 5), np.uint8), PatientID="P008"))
    named, other = listed(tmp_path)
    assert named.group is not None
    assert other.group is not None
    first, second = DicomOrigin.parse(named.group), DicomOrigin.parse(other.group)
    assert (first.named, second.named) == ("1", "")
    assert (first.study == second.study, first.patient == second.patient) == (True, False)
    assert "007" not in first.patient
    assert all(ref.group is None for ref in listed(tmp_path, ListingRule("", Limits(), ("a", "b"))))


def test_a_picture_of_another_kind_under_the_name_of_dicom(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 5), 9, np.uint8)).save(tmp_path / "x.png")
    (tmp_path / "x.png").rename(tmp_path / "x.dcm")
    (ref,) = listed(tmp_path)
    assert (ref.reason, ref.group) == (None, None)
    assert decode_image((tmp_path / "x.dcm").read_bytes())[0, 0, 0] == 9
