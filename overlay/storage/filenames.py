"""File names: extensions of images, archives and tables, hidden files, safe names of archive members."""

import re
from pathlib import PurePosixPath

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".avif", ".jp2", ".ppm", ".pgm")
"""extensions of the formats that `overlay.images.codec` decodes"""
ARCHIVE_ENDINGS = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.zst")
OTHER_ARCHIVES = (".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".7z", ".rar")
"""extensions of archives that are not supported, which a message names"""
SYSTEM_FOLDERS = frozenset({"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"})
"""folders that operating systems and file servers create beside the user's own"""
_SYSTEM = re.compile(f"(?:^|/)(?:{'|'.join(map(re.escape, sorted(SYSTEM_FOLDERS)))})(?:/|$)")


def is_hidden(name: str) -> bool:
    """Whether a relative name, or a folder in it, is hidden (``.name``) or a system folder."""
    # On the text: path objects would take most of the time of listing a million files.
    return name.startswith(".") or "/." in name or _SYSTEM.search(name) is not None


def is_image(name: str) -> bool:
    """Whether a relative name has the extension of an image format, and is not hidden."""
    return name.lower().endswith(IMAGE_ENDINGS) and not is_hidden(name)


def is_archive(name: str) -> bool:
    """Whether a relative name has the extension of a supported archive, and is not hidden."""
    return name.lower().endswith(ARCHIVE_ENDINGS) and not is_hidden(name)


def is_table(name: str) -> bool:
    """Whether a relative name has the extension of a Parquet file, and is not hidden."""
    return name.lower().endswith(".parquet") and not is_hidden(name)


def file_stem(name: str) -> str:
    """Return the name of an archive without its extension; any other name unchanged."""
    return next((name[: -len(end)] for end in ARCHIVE_ENDINGS if name.lower().endswith(end)), name)


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
