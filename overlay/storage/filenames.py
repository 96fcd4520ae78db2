"""File names: which endings are images, archives and tables, what is hidden, and names that are safe to use."""

import re
from pathlib import PurePosixPath

# What files of overlay.images.codec.FORMATS are called.
IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".avif", ".jp2", ".ppm", ".pgm")
ARCHIVE_ENDINGS = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.zst")
OTHER_ARCHIVES = (".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".7z", ".rar")
"""what people use too, and is not read"""


SYSTEM_FOLDERS = frozenset({"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"})
"""folders that operating systems and file servers leave beside a user's own"""
_SYSTEM = re.compile(f"(?:^|/)(?:{'|'.join(map(re.escape, sorted(SYSTEM_FOLDERS)))})(?:/|$)")


def is_hidden(name: str) -> bool:
    """Whether a relative name is hidden, or lies in a folder of an operating system."""
    # By text: a path object would take most of the time of listing a million files.
    return name.startswith(".") or "/." in name or _SYSTEM.search(name) is not None


def is_image(name: str) -> bool:
    """Whether a relative name may be an image or a mask: a known ending, and not hidden."""
    return name.lower().endswith(IMAGE_ENDINGS) and not is_hidden(name)


def is_archive(name: str) -> bool:
    """Whether a relative name is that of an archive that can be read."""
    return name.lower().endswith(ARCHIVE_ENDINGS) and not is_hidden(name)


def is_table(name: str) -> bool:
    """Whether a relative name is that of a Parquet table."""
    return name.lower().endswith(".parquet") and not is_hidden(name)


def file_stem(name: str) -> str:
    """Return the name of a folder, or that of an archive without its ending."""
    return next((name[: -len(end)] for end in ARCHIVE_ENDINGS if name.lower().endswith(end)), name)


def escape_name(name: str) -> str:
    """Write the bytes of a name that are not UTF-8, which Python holds as lone surrogates, as escapes."""
    return name.encode(errors="backslashreplace").decode()


def safe_name(name: str) -> str | None:
    """Return the name of an archive's member without empty parts and dots; None where it is absolute or leads out."""
    parts = name.split("/")
    if name.startswith("/") or ".." in parts or re.match(r"[A-Za-z]:", name):
        return None
    return "/".join(part for part in parts if part not in ("", "."))


def sample_key(name: str) -> str:
    """Return the WebDataset key of a member: its path up to the first dot of its file name."""
    path = PurePosixPath(name)
    return str(path.with_name(path.name.split(".", 1)[0])) if not path.name.startswith(".") else name
