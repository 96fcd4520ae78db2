"""Directory walk: the files below a folder, on a disk or in a bucket, folder by folder in a fixed order.

On a disk only one folder's names are in memory at a time. Which folders hold files that belong together, such as
images and their masks, and which are left out, is the caller's `WalkRule`.
"""

import os
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from pyarrow.fs import FileInfo, FileSelector

from overlay.storage.filenames import is_hidden
from overlay.storage.path import StoragePath

_Tree = dict[str, "_Tree | None"]
"""entries of a folder of a bucket: its folders, and None for each file"""
Stamp = tuple[int | None, str | None]
"""size in bytes and time of modification in nanoseconds; both None for a file that does not exist"""


@dataclass(frozen=True)
class WalkRule:
    """Which folders are walked together, and which are not entered."""

    keys: Callable[[Collection[str]], Mapping[str, str]] = lambda names: dict(zip(names, names, strict=True))
    """from the names of the folders of one folder to their keys: folders of equal keys are walked as one; the files of
    one whose key is empty belong to the folder above"""
    leave_out: Callable[[Collection[str]], bool] = lambda _: False
    """whether a folder with entries of these names is not entered; never asked for the root"""


@dataclass(frozen=True)
class WalkedFolder:
    """Files of one folder, with those of the folders that belong to it."""

    names: list[str]
    """sorted paths relative to the root of the walk, with slashes"""
    stamp: Callable[[str], Stamp]
    """from such a path to its size and time of modification, by which a changed file is detected"""
    irregular: frozenset[str] = frozenset()
    """those of ``names`` that are not regular files: pipes, sockets, devices, broken symbolic links"""
    left_out: int = 0
    """number of hidden folders and system folders, which are not entered"""
    skipped: tuple[str, ...] = ()
    """folders that are not entered by `WalkRule.leave_out`, relative to the root"""
    unreadable: Mapping[str, str] = field(default_factory=dict)
    """folders that can't be read, relative to the root -> reason"""
    folders: Mapping[str, Collection[str]] = field(default_factory=dict)
    """path of each folder so far -> names of all the folders in it, by which `WalkRule.keys` decided"""


def walk_folder(folder: StoragePath, rule: WalkRule = WalkRule()) -> Iterator[WalkedFolder]:
    """Walk a folder recursively in a fixed order; a symbolic link to a folder is followed once.

    Hidden folders and system folders are counted and not entered.

    Raises:
        OSError: the folder can't be read.
    """
    return _walk_bucket(folder, rule) if folder.in_bucket else _walk_disk(folder.text, rule)


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


def _walk_disk(root: str, rule: WalkRule) -> Iterator[WalkedFolder]:
    def stamp(name: str) -> Stamp:
        return _stamp(f"{root}/{name}")

    seen: set[tuple[int, int]] = set()
    folders: dict[str, list[str]] = {}
    waiting = [[""]]  # a stack: a tree may be deeper than Python's recursion
    while waiting:
        together = waiting.pop()
        names: list[str] = []
        irregular: list[str] = []
        skipped: list[str] = []
        unreadable: dict[str, str] = {}
        left_out = 0
        below: dict[str, list[str]] = {}
        for folder in together:  # grows during the iteration
            try:
                status = os.stat(f"{root}/{folder}")  # noqa: PTH116
                if (status.st_dev, status.st_ino) in seen:
                    continue
                seen.add((status.st_dev, status.st_ino))
                with os.scandir(f"{root}/{folder}") as entries:
                    kinds = {entry.name: _kind(entry) for entry in entries}
            except OSError as error:
                if not folder:
                    raise
                unreadable[folder.rstrip("/")] = f"folder that can't be read: {error.strerror}"
                continue
            if folder and rule.leave_out(kinds):
                skipped.append(folder.rstrip("/"))
                continue
            inner = sorted(name for name, kind in kinds.items() if kind == "folder" and not is_hidden(name))
            names += [folder + name for name, kind in kinds.items() if kind != "folder"]
            irregular += [folder + name for name, kind in kinds.items() if kind == "other"]
            left_out += sum(kind == "folder" for kind in kinds.values()) - len(inner)
            keys, folders[folder.rstrip("/")] = rule.keys(inner), inner
            for name in inner:
                if keys[name]:
                    below.setdefault(keys[name], []).append(f"{folder}{name}/")
                else:
                    together.append(f"{folder}{name}/")
        waiting += [below[name] for name in sorted(below, reverse=True)]
        if names or left_out or skipped or unreadable:
            names.sort()
            yield WalkedFolder(names, stamp, frozenset(irregular), left_out, tuple(skipped), unreadable, folders)


def _kind(entry: "os.DirEntry[str]") -> Literal["file", "folder", "other"]:
    try:
        return "folder" if entry.is_dir() else "file" if entry.is_file() else "other"
    except OSError:  # links in a circle
        return "other"


def _walk_bucket(root: StoragePath, rule: WalkRule) -> Iterator[WalkedFolder]:
    # One request lists a thousand objects of all folders; asking folder by folder could take a request for each.
    assert root.filesystem is not None
    infos: list[FileInfo] = root.filesystem.get_file_info(FileSelector(root.path, recursive=True))
    begin = len(root.path) + 1
    stamps = {info.path[begin:]: (info.size, str(info.mtime_ns)) for info in infos if info.is_file}
    del infos
    tree: _Tree = {}
    for name in sorted(stamps):
        folders = tree
        *above, file = name.split("/")
        for part in above:
            below = folders.setdefault(part, {})
            folders = below if below is not None else {}  # an object may be called as a folder of others
        folders.setdefault(file, None)
    waiting = [[("", tree)]]
    inside: dict[str, list[str]] = {}
    while waiting:
        together = waiting.pop()
        names: list[str] = []
        skipped: list[str] = []
        left_out = 0
        lower: dict[str, list[tuple[str, _Tree]]] = {}
        for folder, entries in together:  # grows during the iteration
            if folder and rule.leave_out(entries):
                skipped.append(folder.rstrip("/"))
                continue
            inner = {name: below for name, below in entries.items() if below is not None}
            names += [folder + name for name in entries if name not in inner]
            left_out += sum(map(is_hidden, inner))
            inside[folder.rstrip("/")] = [name for name in inner if not is_hidden(name)]
            keys = rule.keys(inside[folder.rstrip("/")])
            for name, key in keys.items():
                (lower.setdefault(key, []) if key else together).append((f"{folder}{name}/", inner[name]))
        waiting += [lower[key] for key in sorted(lower, reverse=True)]
        if names or left_out or skipped:
            yield WalkedFolder(sorted(names), stamps.__getitem__, frozenset(), left_out, tuple(skipped), {}, inside)
