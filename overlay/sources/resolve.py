"""Resolution of the inputs of a prediction: folders, files, archives, tables, datasets, glob patterns, "-" (stdin).

Each becomes a source, which lists its own inputs. An input's id is its path in its source, after the source's name
where there are several.
"""

import glob
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from overlay.config import Limits, MaskNames
from overlay.dataset.prepared import is_dataset
from overlay.errors import RequestError, one_line
from overlay.sources.conventions import MaskConventions
from overlay.sources.input_folder import list_folder
from overlay.sources.input_list import InputList, read_list
from overlay.sources.input_table import list_dataset, list_table
from overlay.sources.inputs import ListingRule, Portion, list_files, list_members
from overlay.sources.list_lines import list_lines
from overlay.sources.own_output import is_own_output
from overlay.storage.filenames import file_stem, is_archive, is_image, is_table
from overlay.storage.path import StoragePath
from overlay.storage.walk import walk_folder

RECOGNISED = MaskNames()
_PATTERN = re.compile(r"[*?[]")
_Source = tuple[StoragePath, Callable[[ListingRule], Iterator[Portion]]]


def resolve_inputs(
    inputs: Sequence[str],
    classes: Sequence[str],
    limits: Limits,
    masks: MaskNames = RECOGNISED,
    roots: tuple[StoragePath, ...] = (),
) -> Iterator[Portion]:
    """List all inputs in portions, in a fixed order; ``classes`` are the labels that folders and tables may name.

    ``roots``: where lists and tables may name files, beside their own folder; see `overlay.sources.data_address`.

    Raises:
        RequestError: an input does not exist or can't be read, a pattern matches nothing, no input holds an image, or
            all files of a list or a table lie outside the folders that it may name.
    """
    skipped: list[str] = []
    lines = read_list(list_lines(sys.stdin), roots) if "-" in inputs else InputList()
    sources = _sources(inputs, lines.places, skipped)
    found = bool(lines.refused)
    if skipped or found:
        yield Portion(lines.refused, skipped=tuple(skipped))
    prefixes = name_places([place for place, _ in sources])
    for (place, listed), name in zip(sources, prefixes, strict=True):
        prefix = f"{name or 'files'}/" if len(sources) > 1 else ""
        rule = ListingRule(prefix, limits, classes, masks=MaskConventions.of(masks), roots=roots)
        try:
            for portion in listed(rule):
                found = found or bool(portion.images)
                yield portion
        except OSError as error:
            raise RequestError(f"{place} can't be read: {one_line(error)}; check it and its permissions") from error
    if not found:
        raise RequestError(
            f"no image in {', '.join(inputs)}; name image files, archives, tables, or folders that hold some"
        )


def locate_source(given: str, what: str) -> StoragePath:
    """Return the path of an existing input, under the name that the user gave; ``what`` is the option's name.

    Raises:
        RequestError: the path does not exist, or the bucket can't be reached.
    """
    place = StoragePath.of(given)
    try:
        if not place.exists():
            raise RequestError(f"{what} {given} is not there; check the path")
    except OSError as error:
        raise RequestError(
            f"{what} {given} can't be reached: {one_line(error)}; check the address, the credentials and the network"
        ) from error
    return place


def name_places(places: Sequence[StoragePath]) -> list[str]:
    """Return a unique name for each source: its folder or archive, with a number appended to repeated names."""
    names: list[str] = []
    for place in places:
        first = name = file_stem(place.name)
        number = 2
        while name in names:
            name, number = f"{first}-{number}", number + 1
        names.append(name)
    return names


def _sources(inputs: Sequence[str], listed: Sequence[StoragePath], skipped: list[str]) -> list[_Source]:
    """Return the sources of inputs; ``listed`` are the paths of the list, where one is named.

    The folders that Overlay wrote and a pattern matches are added to ``skipped``.
    """
    sources: dict[StoragePath, Callable[[ListingRule], Iterator[Portion]]] = {}
    files: list[StoragePath] = []
    for place in _places(inputs, listed, skipped):
        if is_archive(place.name):
            sources[place] = partial(list_members, place)
        elif is_table(place.name):
            sources[place] = partial(list_table, place)
        elif not _is_folder(place):
            files.append(place)
        elif is_dataset(place):
            sources[place] = partial(list_dataset, place)
        else:
            sources[place] = partial(list_folder, place)
    folders = [f"{place.path}/" for place in sources if not is_table(place.name) and not is_archive(place.name)]
    rest = [file for file in files if not (is_image(file.name) and file.path.startswith(tuple(folders)))]
    return [*sources.items(), *_group_files(rest)]


def _is_folder(place: StoragePath) -> bool:
    try:
        return place.is_folder()
    except OSError:  # of a bucket; a row that says so, when it is read
        return False


def _group_files(files: Sequence[StoragePath]) -> Iterator[_Source]:
    """Yield one source for all files on the disk, and one for those of each bucket."""
    stores: dict[str, list[StoragePath]] = {}
    for file in files:
        stores.setdefault(file.text.split("/")[2] if file.in_bucket else "", []).append(file)
    for together in stores.values():
        above = os.path.commonpath([file.parent.path for file in together])
        root = together[0].parent
        while root.path != above:
            root = root.parent
        names = [file.path.removeprefix(f"{above.rstrip('/')}/") for file in together]
        yield root, partial(list_files, names, root)


def _places(inputs: Sequence[str], listed: Sequence[StoragePath], skipped: list[str]) -> Iterator[StoragePath]:
    for given in inputs:
        if given == "-":
            yield from listed
        elif _PATTERN.search(_path(given)) and not (_is_local(given) and Path(given).expanduser().exists()):
            yield from _matches(given, skipped)
        else:
            yield locate_source(given, "input")


def _matches(pattern: str, skipped: list[str]) -> Iterator[StoragePath]:
    """Yield the images, archives and tables that match a glob pattern; also folders, unless it has a ``**``.

    What lies in a folder that Overlay wrote is left out, and the folder is added to ``skipped``.

    Raises:
        RequestError: nothing matches.
    """
    root = StoragePath.of(pattern)
    while _PATTERN.search(root.path):
        root = root.parent
    own: dict[StoragePath, bool] = {}
    places = _on_disk(pattern) if _is_local(pattern) else _in_bucket(pattern, root)
    kept = [place for place in places if not _is_of_overlay(place, root, own)]
    skipped += [str(folder) for folder, is_own in own.items() if is_own]
    if not kept:
        left_out = ", but for what Overlay wrote" if places else ""
        raise RequestError(f"no image, archive, table or folder matches {pattern}{left_out}; check the pattern")
    yield from kept


def _is_of_overlay(place: StoragePath, root: StoragePath, own: dict[StoragePath, bool]) -> bool:
    """Whether a path is, or lies in, a folder below ``root`` that Overlay wrote; ``own`` holds what is known."""
    folder = place if not place.in_bucket and place.is_folder() else place.parent  # a pattern gives files of buckets
    while folder.path.startswith(f"{root.path.rstrip('/')}/"):
        if folder not in own:
            own[folder] = is_own_output(folder.children())
        if own[folder]:
            return True
        folder = folder.parent
    return False


def _on_disk(pattern: str) -> list[StoragePath]:
    # Path.glob needs the folder before the pattern.
    paths = map(Path, sorted(glob.iglob(str(Path(pattern).expanduser()), recursive=True)))  # noqa: PTH207
    return [
        StoragePath.of(path)
        for path in paths
        if (path.is_file() and _usable(path.name)) or (path.is_dir() and "**" not in pattern)
    ]


def _in_bucket(pattern: str, root: StoragePath) -> list[StoragePath]:
    wanted = re.compile(_expression(StoragePath.of(pattern).path))
    try:
        names = [name for folder in walk_folder(root) for name in folder.names]
    except OSError as error:
        raise RequestError(f"{pattern} can't be read: {one_line(error)}; check the address") from error
    return [root / name for name in names if _usable(name) and wanted.fullmatch(f"{root.path}/{name}")]


def _expression(pattern: str) -> str:
    """Return the regular expression of a glob pattern, in which only ``**`` matches a slash."""
    parts = re.split(r"(\*\*/|\*\*|\*|\?|\[[^\]]+\])", pattern)
    special = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return "".join(
        special.get(part) or (f"[{part[1:-1].replace('!', '^', 1)}]" if part.startswith("[") else re.escape(part))
        for part in parts
    )


def _usable(name: str) -> bool:
    return is_image(Path(name).name) or is_archive(Path(name).name) or is_table(Path(name).name)


def _is_local(given: str) -> bool:
    return "://" not in given


def _path(given: str) -> str:
    """Return the part of an input that may be a pattern: a URI without its query."""
    return given if _is_local(given) else StoragePath.of(given).path
