"""The files below a folder, on a disk or in a bucket, folder by folder, so that a million of them needs little memory.

What may belong together comes together: the folders ``images`` and ``masks`` count as part of the folder that holds
them, as in `overlay.sources.labelled.pair`, so ``p/images/x.png`` and ``p/masks/x.png`` come in one `Folder`.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from pyarrow.fs import FileInfo, FileSelector

from overlay.storage.path import StoragePath

TRANSPARENT = frozenset({"image", "images", "mask", "masks"})
"""names of folders that set images and masks apart, in lower case"""

Stamp = tuple[int | None, str | None]
"""size in bytes and time of the last change in nanoseconds; None for a file that has gone"""


@dataclass(frozen=True)
class WalkedFolder:
    """Files that may belong together."""

    names: list[str]
    """paths relative to the folder that was walked, with slashes, sorted"""
    stamp: Callable[[str], Stamp]
    """from such a path to what would tell another file of the same name"""


def walk_folder(folder: StoragePath) -> Iterator[WalkedFolder]:
    """Go through a folder and all folders in it, always in the same order; a link to a folder is followed once.

    Only regular files, and links to such, come: a pipe or a device would have no end.

    Raises:
        OSError: the folder, or one in it, can't be read.
    """
    return _walk_bucket(folder) if folder.in_bucket else _walk_disk(folder.text)


def stamp_of(place: StoragePath) -> Stamp:
    """Return the stamp of a file on a disk or in a bucket.

    Raises:
        OSError: a bucket can't be asked.
    """
    if place.filesystem is None:
        return _stamp(place.text)
    info = place.filesystem.get_file_info(place.path)
    return (info.size, str(info.mtime_ns)) if info.is_file else (None, None)


def _stamp(path: str) -> Stamp:
    try:
        status = os.stat(path)  # noqa: PTH116 - a Path would double the time, a million times
    except OSError:
        return None, None
    return status.st_size, str(status.st_mtime_ns)


def _walk_disk(root: str) -> Iterator[WalkedFolder]:
    def stamp(name: str) -> Stamp:
        return _stamp(f"{root}/{name}")

    seen: set[tuple[int, int]] = set()
    waiting = [[""]]  # a stack: a tree may be deeper than Python's recursion
    while waiting:
        together = waiting.pop()
        names: list[str] = []
        below: dict[str, list[str]] = {}
        for folder in together:  # grows while it is gone through
            status = os.stat(f"{root}/{folder}")  # noqa: PTH116
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(f"{root}/{folder}") as entries:
                inner = []
                for entry in entries:
                    if entry.is_file():
                        names.append(folder + entry.name)
                    elif entry.is_dir():
                        inner.append(entry.name)
            for name in sorted(inner):
                if name.lower() in TRANSPARENT:
                    together.append(f"{folder}{name}/")
                else:
                    below.setdefault(name, []).append(f"{folder}{name}/")
        waiting += [below[name] for name in sorted(below, reverse=True)]
        if names:
            names.sort()
            yield WalkedFolder(names, stamp)


def _walk_bucket(root: StoragePath) -> Iterator[WalkedFolder]:
    # One request lists a thousand objects of all folders; asking folder by folder could take a request for each.
    assert root.filesystem is not None
    infos: list[FileInfo] = root.filesystem.get_file_info(FileSelector(root.path, recursive=True))
    begin = len(root.path) + 1
    stamps = {info.path[begin:]: (info.size, str(info.mtime_ns)) for info in infos if info.is_file}
    del infos
    folders: dict[tuple[str, ...], list[str]] = {}
    for name in sorted(stamps):
        above = PurePosixPath(name).parts[:-1]
        folders.setdefault(tuple(part for part in above if part.lower() not in TRANSPARENT), []).append(name)
    for place in sorted(folders):
        yield WalkedFolder(folders[place], stamps.__getitem__)
