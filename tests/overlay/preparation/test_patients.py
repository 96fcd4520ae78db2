from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from overlay.config import Prepare
from overlay.preparation.listing import ListedSources, list_sources
from tests.overlay.images.test_dicom import dicom


def listed(tmp_path: Path, patients: str, studies: str) -> ListedSources:
    """List a file for each patient and study, named in one letter each, of two classes in turn."""
    for number, (patient, study) in enumerate(zip(patients, studies, strict=True)):
        folder = tmp_path / "set" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        tags = {"PatientID": f"{patient}-1984", "StudyInstanceUID": f"1.2.{ord(study)}"}
        (folder / f"{number:02d}.dcm").write_bytes(dicom(np.full((4, 5), number, np.uint8), **tags))
    return list_sources(Prepare([str(tmp_path / "set")], "unused"), tmp_path, lambda _: None)


def groups(tmp_path: Path) -> dict[str, str]:
    rows = pq.read_table(tmp_path / "manifest.parquet", columns=["id", "group"]).to_pylist()
    return {row["id"].partition("/")[2]: row["group"] for row in rows}


def test_images_of_a_patient_are_a_group_whose_name_tells_nothing(tmp_path: Path) -> None:
    found = listed(tmp_path, "UVWXYZUV", "ABCDEFGH")
    of = groups(tmp_path)
    assert of["00.dcm"] == of["06.dcm"] == "patient of a/00.dcm"
    assert of["01.dcm"] == of["07.dcm"] == "patient of b/01.dcm"
    assert len(set(of.values())) == 6
    assert found.remarks == ["8 DICOM files of 6 groups by PatientID"]
    assert b"1984" not in (tmp_path / "manifest.parquet").read_bytes()


def test_with_one_patient_id_for_all_studies_are_groups(tmp_path: Path) -> None:
    found = listed(tmp_path, "UUUUUUU", "ABCDEFA")
    assert len(set(groups(tmp_path).values())) == 6
    assert found.remarks == ["7 DICOM files of 6 groups by StudyInstanceUID, since all have the same PatientID"]


def test_ids_in_names_are_said(tmp_path: Path) -> None:
    (tmp_path / "set" / "a").mkdir(parents=True)
    (tmp_path / "set" / "a" / "u-1984.dcm").write_bytes(dicom(np.zeros((4, 5), np.uint8), PatientID="U-1984"))
    found = listed(tmp_path, "UVWXYZ", "ABCDEF")
    assert found.remarks[1] == (
        "WARNING: 1 names of files contain the id of their patient or study, such as a/u-1984.dcm; the dataset's ids "
        "repeat them: rename the files to leave them out"
    )
