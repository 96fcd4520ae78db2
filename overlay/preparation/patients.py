"""Groups of DICOM files by patient, or by study, named by the first file of each."""

from overlay.images.ref import ImageRef
from overlay.sources.dicom_frames import DicomOrigin


class PatientGroups:
    """Groups by the patient of each DICOM file; by the study where a file has no patient, or all have the same one.

    Call `observe` for every image, then `group`. A group has the name of its first file: no id of a patient or a study,
    nor a hash of one, is written.
    """

    def __init__(self) -> None:
        self._patients: set[str] = set()
        self._studies: set[str] = set()
        self._files: set[str] = set()
        self._named: set[str] = set()
        self._names: dict[str, str] = {}

    def observe(self, ref: ImageRef) -> None:
        """Count the patients and studies of a listing."""
        if ref.group is not None:
            origin = DicomOrigin.parse(ref.group)
            self._patients.add(origin.patient)
            self._studies.add(origin.study)
            self._files.add(ref.file_id)
            if origin.named:
                self._named.add(ref.file_id)

    def group(self, ref: ImageRef) -> str | None:
        """Return the group of an image; None where it is no DICOM file, or one without patient and study."""
        if ref.group is None:
            return None
        origin = DicomOrigin.parse(ref.group)
        by_patient = origin.patient if len(self._patients) > 1 else ""
        key = by_patient or origin.study or origin.patient
        return self._names.setdefault(key, f"patient of {ref.file_id}") if key else None

    def remarks(self) -> list[str]:
        """Return what the user must know of the groups and of ids in file names."""
        lines = []
        if self._files:
            by = "PatientID" if len(self._patients) > 1 else "StudyInstanceUID, since all have the same PatientID"
            count = len(self._patients) if len(self._patients) > 1 else len(self._studies)
            lines.append(f"{len(self._files)} DICOM files of {count} groups by {by}")
        if self._named:
            lines.append(
                f"WARNING: {len(self._named)} names of files contain the id of their patient or study, such as "
                f"{min(self._named)}; the dataset's ids repeat them: rename the files to leave them out"
            )
        return lines
