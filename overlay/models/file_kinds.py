"""Kinds of files that are given in place of a file of ``torch.save``, told apart by their first bytes."""

import tarfile
import zipfile
from pathlib import Path
from typing import Literal

FileKind = Literal["torch zip", "torch pickles", "safetensors"]

_GIVE = "give a file that torch.save made of model.state_dict()"
_DAMAGED = f"holds no state_dict, or a damaged one; {_GIVE}"
_STARTS = {
    b"\x1f\x8b": "is compressed by gzip; unpack it first",
    b"\x89HDF": f"is an HDF5 file, as Keras writes them; {_GIVE}",
    b"\x93NUMPY": f"is an array of numpy; {_GIVE}",
    b"\x89PNG": f"is an image; {_GIVE}",
    b"\xff\xd8\xff": f"is an image; {_GIVE}",
    b"%PDF": f"is a PDF document; {_GIVE}",
    b"PAR1": f"is a Parquet table; {_GIVE}",
    b"GGUF": f"is a GGUF file; {_GIVE}",
}


def file_kind(file: Path) -> FileKind | None:
    """Return the format of a file of weights; None where it is none that is read.

    Raises:
        OSError: the file can't be read.
    """
    size = file.stat().st_size
    with file.open("rb") as opened:
        start = opened.read(16)
    if start[:4] == b"PK\x03\x04":
        return "torch zip" if any(name.endswith("/data.pkl") for name in _zip_names(file)) else None
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= size - 8:
        return "safetensors"
    return "torch pickles" if start[:1] == b"\x80" else None


def foreign_kind(file: Path) -> str:
    """Return what a file is that holds no weights that can be read, and what to do, to follow its name.

    Raises:
        OSError: the file can't be read.
    """
    size = file.stat().st_size
    with file.open("rb") as opened:
        start = opened.read(512)
    text = start.decode("latin1").removeprefix("ï»¿").lstrip().lower()
    if not start:
        return f"is empty; {_GIVE}"
    if start.startswith(b"version https://git-lfs"):
        return f"is a git-LFS pointer of {size} bytes, not the file that it stands for; fetch that with git lfs pull"
    if text.startswith(("<!doctype", "<html", "<head", "<body", "<?xml", "<script")):
        return "is a web page, such as one that asks to log in or to confirm a download; download the file itself"
    if start[:4] == b"PK\x03\x04":
        names = _zip_names(file)
        if not names or any(name.endswith("/data.pkl") for name in names):
            return _DAMAGED
        held = ", ".join(names[:3])
        return f"is a zip archive with {held}, not one of torch.save; unpack it, and give the file of weights in it"
    if known := next((said for magic, said in _STARTS.items() if start.startswith(magic)), None):
        return known
    if tarfile.is_tarfile(file):
        return _tar(file)
    if file.suffix.lower() == ".onnx":
        return f"is an ONNX model; {_GIVE}"
    if text.startswith(("{", "[")):
        return f"is JSON text; {_GIVE}"
    return _DAMAGED


def _tar(file: Path) -> str:
    with tarfile.open(file) as archive:
        names = [member.name for _, member in zip(range(5), archive, strict=False)]
    if "pickle" in names or {"sys_info", "storages"} & set(names):
        return (
            "is a tar archive as torch before 0.2 wrote it; load it with an old torch (torch.load still reads it with "
            "weights_only=False, which runs code in it), and save its state_dict"
        )
    return f"is a tar archive with {', '.join(names[:3])}; unpack it, and give the file of weights in it"


def _zip_names(file: Path) -> list[str]:
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.namelist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        return []
