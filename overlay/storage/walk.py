"""Directory walk: the files below a folder, on a disk or in a bucket, folder by folder in a fixed order.

A million files need little memory, since only one folder's names are held at a time. What may belong together comes
together: folders called ``images`` and ``masks`` count as part of the folder that holds them, as in
`overlay.sources.mask_pairing`, so ``p/images/x.png`` and ``p/masks/x.png`` come in one `WalkedFolder`.
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
    irregular: frozenset[str] = frozenset()
    """those of ``names`` that are no regular files: pipes, sockets, devices, links that lead nowhere"""
    left_out: int = 0
    """hidden folders and those of operating systems, which are not entered"""


def walk_folder(folder: StoragePath) -> Iterator[WalkedFolder]:
    """Walk a folder and all folders in it, always in the same order; a link to a folder is followed once.

    Hidden folders and those of operating systems are counted and not entered.

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
        for folder in together:  # grows while it is gone through
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
