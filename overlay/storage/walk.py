"""Directory walk: the files below a folder, on a disk or in a bucket, folder by folder in a fixed order.

On a disk only one folder's names are in memory at a time. Images and their masks come in one `WalkedFolder`: folders
called ``images`` and ``masks`` count as part of the folder that holds them, as in `overlay.sources.mask_pairing`, so
``p/images/x.png`` and ``p/masks/x.png`` come together.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

from pyarrow.fs import FileInfo, FileSelector

from overlay.storage.filenames import is_hidden
from overlay.storage.path import StoragePath

TRANSPARENT = frozenset({"image", "images", "mask", "masks"})
"""lower-case names of folders that separate images from masks"""

Stamp = tuple[int | None, str | None]
"""size in bytes and time of modification in nanoseconds; both None for a file that does not exist"""


@dataclass(frozen=True)
class WalkedFolder:
    """Files of one folder, with those of its ``images`` and ``masks`` folders."""

    names: list[str]
    """sorted paths relative to the root of the walk, with slashes"""
    stamp: Callable[[str], Stamp]
    """from such a path to its size and time of modification, by which a changed file is detected"""
    irregular: frozenset[str] = frozenset()
    """those of ``names`` that are not regular files: pipes, sockets, devices, broken symbolic links"""
    left_out: int = 0
    """number of hidden folders and system folders, which are not entered"""


def walk_folder(folder: StoragePath) -> Iterator[WalkedFolder]:
    """Walk a folder recursively in a fixed order; a symbolic link to a folder is followed once.

    Hidden folders and system folders are counted and not entered.

    Raises:
        OSError: the folder, or a folder in it, can't be read.
    """
    return _walk_bucket(folder) if folder.in_bucket else _walk_disk(folder.text)


def read_stamp(place: StoragePath) -> Stamp:
    """Return the size and the time of modification of a file on a disk or in a bucket.

    Raises:
        OSError: the bucket can't be reached.
    """
    if place.filesystem is None:
        return _stamp(place.text)
    info = place.filesystem.get_file_info(place.path)
    return (info.size, str(info.mtime_ns)) if info.is_file else (None, None)


def _stamp(path: str) -> Stamp:
    try:
        status = os.stat(path)  # noqa: PTH116 - a Path would double the time, a million times
    except (OSError, ValueError):  # a name with a NUL in it is a ValueError
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
        irregular: list[str] = []
        left_out = 0
        below: dict[str, list[str]] = {}
        for folder in together:  # grows during the iteration
            status = os.stat(f"{root}/{folder}")  # noqa: PTH116
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(f"{root}/{folder}") as entries:
                inner = []
                for entry in entries:
                    kind = _kind(entry)
                    if kind != "folder":
                        names.append(folder + entry.name)
                        if kind == "other":
                            irregular.append(folder + entry.name)
                    elif is_hidden(entry.name):
                        left_out += 1
                    else:
                        inner.append(entry.name)
            for name in sorted(inner):
                if name.lower() in TRANSPARENT:
                    together.append(f"{folder}{name}/")
                else:
                    below.setdefault(name, []).append(f"{folder}{name}/")
        waiting += [below[name] for name in sorted(below, reverse=True)]
        if names or left_out:
            names.sort()
            yield WalkedFolder(names, stamp, frozenset(irregular), left_out)


def _kind(entry: "os.DirEntry[str]") -> Literal["file", "folder", "other"]:
    try:
        return "folder" if entry.is_dir() else "file" if entry.is_file() else "other"
    except OSError:  # links in a circle
        return "other"


def _walk_bucket(root: StoragePath) -> Iterator[WalkedFolder]:
    # One request lists a thousand objects of all folders; asking folder by folder could take a request for each.
    assert root.filesystem is not None
    infos: list[FileInfo] = root.filesystem.get_file_info(FileSelector(root.path, recursive=True))
    begin = len(root.path) + 1
    stamps = {info.path[begin:]: (info.size, str(info.mtime_ns)) for info in infos if info.is_file}
    del infos
    folders: dict[tuple[str, ...], list[str]] = {}
    hidden: set[str] = set()
    for name in sorted(stamps):
        above = PurePosixPath(name).parts[:-1]
        out = next((depth for depth, part in enumerate(above) if is_hidden(part)), None)
        if out is not None:
            hidden.add("/".join(above[: out + 1]))
        else:
            folders.setdefault(tuple(part for part in above if part.lower() not in TRANSPARENT), []).append(name)
    if hidden:
        yield WalkedFolder([], stamps.__getitem__, left_out=len(hidden))
    for place in sorted(folders):
        yield WalkedFolder(folders[place], stamps.__getitem__)
