"""File names: extensions of images, archives and tables, hidden files, safe names of archive members."""

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import PurePosixPath

LOG_FILE = "overlay.log"
"""log of the commands that worked in an output folder"""
DICOM_ENDINGS = (".dcm", ".dicom")
IMAGE_ENDINGS = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".tif", ".tiff", ".bmp", ".dib", ".gif", ".webp"),
    *(".avif", ".avifs", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
    *(".blp", ".cur", ".dcx", ".dds", ".fit", ".fits", ".flc", ".fli", ".ftc", ".ftu", ".gbr", ".icns", ".ico", ".im"),
    *(".iim", ".msp", ".pcd", ".pcx", ".pxr", ".psd", ".qoi", ".bw", ".rgb", ".rgba", ".sgi", ".ras", ".icb", ".tga"),
    *(".vda", ".vst", ".xbm", ".xpm"),
    *DICOM_ENDINGS,
)
"""extensions of the formats that `overlay.images.codec` decodes: those that Pillow registers, and DICOM's"""
ARCHIVE_ENDINGS = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.zst")
OTHER_ARCHIVES = (".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".7z", ".rar")
"""extensions of archives that are not supported, which a message names"""
SYSTEM_FOLDERS = frozenset({"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"})
"""folders that operating systems and file servers create beside the user's own"""
LOCK_NAME = ".overlay-lock"
"""file of the lock in an output folder (`overlay.storage.folder_lock`); names of others that belong to it begin so"""
_STRAY = re.compile(rf"{re.escape(LOCK_NAME)}|\.nfs|\._|(?:\.DS_Store|Thumbs\.db|desktop\.ini)$")
FOLDERS = "folders"
"""kind of hidden folders and system folders among what is passed over"""
_SYSTEM = re.compile(f"(?:^|/)(?:{'|'.join(map(re.escape, sorted(SYSTEM_FOLDERS)))})(?:/|$)")


def is_hidden(name: str) -> bool:
    """Whether a relative name, or a folder in it, is hidden (``.name``) or a system folder."""
    # On the text: path objects would take most of the time of listing a million files.
    return name.startswith(".") or "/." in name or _SYSTEM.search(name) is not None


def is_lock(name: str) -> bool:
    """Whether a name in a folder is that of a lock."""
    return name.startswith(LOCK_NAME)


def is_temporary(name: str) -> bool:
    """Whether a file is an incomplete one, which `write_atomically` leaves behind in a process that is killed."""
    return name.startswith(".") and name.endswith(".tmp")


def is_stray(name: str) -> bool:
    """Whether a file that stands in an output folder is none of ours: a lock, or what a desktop leaves (.DS_Store)."""
    return _STRAY.match(name) is not None


def is_image(name: str) -> bool:
    """Whether a relative name has the extension of an image format, and is not hidden."""
    return name.lower().endswith(IMAGE_ENDINGS) and not is_hidden(name)


def is_dicom_name(name: str) -> bool:
    """Whether a name has the extension of a DICOM file, or none, as many DICOM files have."""
    return name.lower().endswith(DICOM_ENDINGS) or lacks_ending(name)


def lacks_ending(name: str) -> bool:
    """Whether a file name has no extension; the parts of a DICOM UID (1.2.840) are none."""
    ending = name.rpartition("/")[2].rpartition(".")
    return not ending[1] or not ending[0] or ending[2].isdigit()


def is_archive(name: str) -> bool:
    """Whether a relative name has the extension of a supported archive, and is not hidden."""
    return name.lower().endswith(ARCHIVE_ENDINGS) and not is_hidden(name)


def is_table(name: str) -> bool:
    """Whether a relative name has the extension of a Parquet file, and is not hidden."""
    return name.lower().endswith(".parquet") and not is_hidden(name)


def kind_of_name(name: str) -> str:
    """Return the kind of a file by its name: its extension in lower case, hidden, or "no ending"."""
    if is_hidden(name):
        return "hidden"
    return "no ending" if lacks_ending(name) else f".{name.rpartition('.')[2].lower()}"


def describe_passed_over(kinds: Mapping[str, int]) -> str:
    """Return the numbers of files passed over by their kinds as clauses after semicolons; empty without any."""
    files = Counter({kind: count for kind, count in kinds.items() if kind != FOLDERS})
    text = ""
    if files:
        listed = ", ".join(f"{count} {kind}" for kind, count in sorted(files.most_common(), key=_by_count))
        text = f"; {files.total()} other files passed over: {listed}"
    if folders := kinds.get(FOLDERS):
        text += f"; {folders} hidden folders and folders of the system not entered"
    return text


def _by_count(kind_and_count: tuple[str, int]) -> tuple[int, str]:
    return -kind_and_count[1], kind_and_count[0]


def file_stem(name: str) -> str:
    """Return the name of an archive without its extension; any other name unchanged."""
    return next((name[: -len(end)] for end in ARCHIVE_ENDINGS if name.lower().endswith(end)), name)


def impossible_name(path: str) -> str | None:
    """Return why no file or object can have a path or an address; None where one can.

    Limits are those of Linux (NAME_MAX, PATH_MAX) and of S3's keys, in bytes.
    """
    if "\0" in path:
        return "no file can have this name: it has a NUL in it"
    most_part, most = (1024, 1024) if "://" in path else (255, 4095)
    parts = [len(part.encode(errors="surrogateescape")) for part in path.split("/")]
    if max(parts) > most_part or sum(parts) + len(parts) - 1 > most:
        return f"no file can have this name: it is too long, {sum(parts) + len(parts) - 1} bytes"
    return None


def escape_name(name: str) -> str:
    """Return a name with backslash escapes for bytes that are not UTF-8 (lone surrogates, by PEP 383)."""
    return name.encode(errors="backslashreplace").decode()


def safe_name(name: str) -> str | None:
    """Return the normalised name of an archive member; None for an absolute path or one with ``..`` (path traversal).

    Empty parts and single dots are removed.
    """
    parts = name.split("/")
    if name.startswith("/") or ".." in parts or re.match(r"[A-Za-z]:", name):
        return None
    return "/".join(part for part in parts if part not in ("", "."))


def sample_key(name: str) -> str:
    """Return the WebDataset key of a member: its path up to the first dot of its file name.

    Members with equal keys are one sample (webdataset documentation, "The WebDataset Format").
    """
    path = PurePosixPath(name)
    return str(path.with_name(path.name.split(".", 1)[0])) if not path.name.startswith(".") else name
