"""Free space on disks: the error of a full disk, and estimates that are compared with the space that is free."""

import errno
import os
import shutil
from pathlib import Path

from overlay.errors import DiskFullError, RequestError
from overlay.storage.path import StoragePath

_FULL = (errno.ENOSPC, errno.EDQUOT)


def is_disk_full(error: BaseException) -> bool:
    """Whether an error says that a disk or a quota is full, as Python, Pillow and pyarrow raise it, or torch."""
    if isinstance(error, OSError):
        return error.errno in _FULL
    # torch.save gives no reason: "[enforce fail at inline_container.cc:671] . unexpected pos 576 vs 534"
    return isinstance(error, RuntimeError) and "inline_container" in str(error) and "unexpected pos" in str(error)


def disk_full_error(file: Path, needed: int | None = None) -> DiskFullError:
    """Return the error of a disk that filled up while ``file`` was written, which is still there.

    ``needed``: size of the whole file in bytes; None where it is not known.
    """
    written = file.stat().st_size if file.exists() else 0
    if needed is None:
        missing = f"there was room for {written + free_bytes(file.parent)} bytes of {file.name}, which needs more"
    else:
        missing = f"{needed - written} bytes are missing for {file.name}, which needs {needed}"
    return DiskFullError(f"{file.parent} is full: {missing}; make room, or ask for a larger quota")


def free_bytes(folder: Path) -> int:
    """Return the bytes that are free on the disk of a folder, which need not exist yet; quotas are not known."""
    there = folder.absolute()
    while not there.exists() and there != there.parent:
        there = there.parent
    return shutil.disk_usage(there).free


def check_free_space(folder: StoragePath, needed: int, what: str) -> None:
    """Compare an estimate with the free space, and print both; a bucket has no end.

    Raises:
        RequestError: the disk of ``folder`` has less than ``needed`` bytes free; ``what`` says what needs them.
    """
    if folder.in_bucket:
        return
    if needed > (free := free_bytes(Path(folder.text))):
        raise RequestError(
            f"{what} needs about {needed} bytes in {folder}, and {free} are free there ({needed - free} are missing); "
            "make room, or name another --out"
        )
    print(f"disk: {what} needs about {needed / 1e6:.0f} MB, and {free / 1e6:.0f} MB are free")


def allocated_bytes(folder: Path) -> int:
    """Return the size of all files in a folder on a disk, in bytes; 0 for one that does not exist."""
    return sum(Path(place, name).lstat().st_size for place, _, files in os.walk(folder) for name in files)
