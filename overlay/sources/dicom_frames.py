"""DICOM files as inputs: one input a frame, and the patient and study of each file as a keyed hash.

Patient ids are short, so that a plain hash of one is found by trying all. The key is drawn anew for each process and
never written; it only tells which files of one listing belong together, and the names of groups come from the files'
own names (`overlay.preparation.patients`).
"""

import hmac
import io
import secrets
from collections.abc import Callable, Iterator, Sequence
from typing import BinaryIO, NamedTuple

from overlay.archives.index import read_member
from overlay.errors import ErrorKind, ImageError, Reason
from overlay.images.dicom import HEAD_BYTES, DicomHeader, is_dicom, read_header
from overlay.images.ref import ImageRef
from overlay.storage.filenames import is_dicom_name, lacks_ending
from overlay.storage.path import StoragePath

_KEY = secrets.token_bytes(32)
_SHORTEST_ID = 3  # characters; shorter ids are found in any name


class DicomOrigin(NamedTuple):
    """Patient and study of a DICOM file as keyed hashes, which are comparable within this process."""

    patient: str
    """empty where the file has no PatientID"""
    study: str
    """empty where the file has no StudyInstanceUID"""
    named: str
    """whether the id of the patient or of the study is part of the file's name: 1, or empty"""

    @classmethod
    def parse(cls, text: str) -> "DicomOrigin":
        """Parse the text of `ImageRef.group` that the listing of a DICOM file gives."""
        return cls(*text.split("."))

    def __str__(self) -> str:
        return ".".join(self)


def expand_files(refs: Sequence[ImageRef], *, origins: bool) -> Iterator[ImageRef]:
    """Yield the references of files, a DICOM file of several frames as one input a frame.

    ``origins``: whether ``group`` gets the text of the file's `DicomOrigin`.
    """
    for ref in refs:
        # Not a pipe, whose opening would wait for a writer.
        if ref.reason is None and is_dicom_name(ref.uri) and StoragePath(ref.uri).is_file():
            yield from _expand(ref, lambda uri=ref.uri: StoragePath(uri).open(), origins=origins)  # type: ignore[misc]
        else:
            yield ref


def expand_members(refs: Sequence[ImageRef], place: StoragePath, *, origins: bool) -> Iterator[ImageRef]:
    """Yield the references of an archive's members as `expand_files` does.

    In an archive that can only be read in order, DICOM files stay one input each; one of several frames is an error
    when it is decoded.

    Raises:
        OSError: the archive can't be read.
    """
    for ref in refs:
        spans = ref.spans
        if ref.reason is None and spans and not spans[0].in_order_only and is_dicom_name(ref.member or ""):
            with place.open() as archive:
                try:
                    data = read_member(archive, spans[0])
                except ImageError as error:
                    yield ref._replace(reason=error.reason)
                    continue
            yield from _expand(ref, lambda data=data: io.BytesIO(data), origins=origins)  # type: ignore[misc]
        else:
            yield ref


def is_unnamed_dicom(place: StoragePath) -> bool:
    """Whether a file on a disk without an extension is a DICOM file, as scanners export them."""
    if place.in_bucket or not lacks_ending(place.name):
        return False
    try:
        return is_dicom(place.read_bytes(HEAD_BYTES))
    except OSError:
        return False


def _expand(ref: ImageRef, open_file: Callable[[], BinaryIO], *, origins: bool) -> Iterator[ImageRef]:
    try:
        with open_file() as file:
            if not is_dicom(file.read(HEAD_BYTES)):
                yield ref
                return
            file.seek(0)
            header = read_header(file)
    except ImageError as error:
        yield ref._replace(reason=error.reason)
        return
    except OSError:
        yield ref  # a row with a reason, when it is read
        return
    if origins:
        ref = ref._replace(group=str(_origin(header, ref.id)))
    if header.frames == 1:
        yield ref
    elif ref.masks:
        said = f"a mask for {header.frames} frames; give each frame a mask of its own"
        yield ref._replace(reason=Reason(said, ErrorKind.REFUSED))
    else:
        name = ref.member or ref.id
        for frame in range(header.frames):
            yield ref._replace(id=f"{ref.id}#{frame}", member=f"{name}#{frame}")


def _origin(header: DicomHeader, id: str) -> DicomOrigin:
    ids = [text for text in (header.patient, header.study) if len(text) >= _SHORTEST_ID]
    named = "1" if any(text.lower() in id.lower() for text in ids) else ""
    return DicomOrigin(_hash(header.patient), _hash(header.study), named)


def _hash(text: str) -> str:
    return hmac.new(_KEY, text.encode(), "sha256").hexdigest()[:32] if text else ""
