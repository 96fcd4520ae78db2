"""Layout of a labelled source: which folders are classes, splits and folds, by the names of folders alone.

Pure functions over paths. A layout is recognised or refused with what was seen and what to do; nothing is taken as a
class that has the name of something else.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from overlay.errors import RequestError
from overlay.sources.conventions import fold, is_image_word, is_mask_word, mask_stem_of, normal_form

LAYOUT = "give a folder with one subfolder for each class, such as benign/ and malignant/"
"""hint at the end of messages about sources"""

_SPLIT_NAMES = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "tst"), "test"),
}
_SPLIT = re.compile(
    rf"(?P<split>{'|'.join(_SPLIT_NAMES)})[-_. ]?(?:set|split|data|dataset|images|imgs)?", re.IGNORECASE
)
_FOLD = re.compile(r"(?P<word>k?-?fold|split|cv)[-_. ]?(?P<number>\d{1,3})", re.IGNORECASE)
_LEAST_FOLDS = 3
_PART = re.compile(r"[-_.](?:part)?\d+(?:[-_.]of[-_.]\d+)?", re.IGNORECASE)
"""number of a part at the end of a file's stem, such as -00000-of-00002"""
_NUMBERED = re.compile(r"\d")
_MOST_CLASSES = 20
"""most numbered folders that may be classes; more of them are patients"""
FOLD_PREFIX = "fold "
"""before the number of a fold, counted from 0, in the split of an image"""


class Placed(NamedTuple):
    """What the folders of an image say of it."""

    label: str | None
    """class, in Unicode's form C; None where the image lies beside the class folders"""
    split: str | None = None
    """train, val, test, or "fold 3" """


@dataclass(frozen=True)
class ClassLayout:
    """Levels of the folders of a source, after the wrapping folder and without folders that separate masks."""

    wrapper: str = ""
    """folder that wraps all others, with its slash"""
    class_level: int | None = 0
    """None where folders are no classes"""
    split_level: int | None = None
    splits: Mapping[str, str] = field(default_factory=dict)
    """folder at ``split_level``, or file -> train, val, test, or "fold 3" """
    split: str | None = None
    """split of all images, where the name of the source's file says it"""

    @property
    def folds(self) -> int:
        """Number of folds; 0 without."""
        return sum(split.startswith(FOLD_PREFIX) for split in self.splits.values())

    def place(self, path: str) -> Placed:
        """Return the class and the split of an image by its path, relative to the source and without the wrapper."""
        steps = _steps(path.split("/")[:-1])
        level = self.class_level
        label = normal_form(steps[level]) if level is not None and len(steps) > level else None
        if self.split_level is None:
            return Placed(label, self.split)
        return Placed(label, self.splits.get(steps[self.split_level]) if len(steps) > self.split_level else None)


def recognise_layout(folders: Collection[str], level: int | None = None) -> ClassLayout:
    """Recognise the layout of a source by its folders with images, relative to it, with slashes.

    ``level``: level of the class folders, where the user gave it, counted from 1 for those at the top, without those
    that separate images from masks.

    Raises:
        RequestError: the folders are no classes; the message lacks the source's name.
    """
    if level is not None:
        return _at_level([_steps(folder.split("/")) for folder in folders], level - 1)
    wrapper = wrapping_folder(folders)
    parts = [folder.removeprefix(wrapper.rstrip("/")).strip("/").split("/") for folder in folders]
    _check_images(parts)
    paths = [path for path in map(_steps, parts) if path]
    if not paths:
        raise RequestError(f"has images but no class folders; {LAYOUT}, or the classes by masks.colors")
    layout = ClassLayout(wrapper)
    for depth in (0, 1):
        if splits := _splits(paths, depth):
            layout = ClassLayout(wrapper, 1 - depth, depth, splits)
            _check_splits(paths, splits)
            paths = [path[:depth] + path[depth + 1 :] for path in paths]
            break
    above = len(_steps(wrapper.split("/")))
    _check_classes([path for path in paths if path], (layout.class_level or 0) + above + 1)
    return layout


def recognise_splits(folders: Collection[str]) -> ClassLayout:
    """Recognise the splits or folds of a source whose labels come from elsewhere; its other folders mean nothing.

    Raises:
        RequestError: the splits or folds are incomplete; the message lacks the source's name.
    """
    wrapper = wrapping_folder(folders).rstrip("/")
    paths = [_steps(folder.removeprefix(wrapper).strip("/").split("/")) for folder in folders]
    tops = {path[0] if path else "" for path in paths}
    if not (all(map(split_of_name, tops)) or all(map(_FOLD.fullmatch, tops))):
        return ClassLayout(class_level=None)
    splits = _splits(paths, 0)
    _check_complete(splits)
    return ClassLayout("", None, len(_steps(wrapper.split("/"))), splits)


def recognise_file_splits(names: Collection[str]) -> dict[str, str]:
    """Return file -> split for archives and tables that lie together, such as train-00000-of-00002.parquet.

    Empty where their names are no splits, or all of one, as where a publisher has made train alone.

    Raises:
        RequestError: the splits are incomplete, or only some names are splits; the message lacks the folder's name.
    """
    stems = {name: _PART.sub("", name.rpartition("/")[2].split(".")[0]) for name in names}
    splits = {name: split for name, stem in stems.items() if (split := split_of_name(stem))}
    if len(set(splits.values())) < 2:
        return {}
    if rest := set(names) - splits.keys():
        raise RequestError(
            f"has the files {_some(splits)}, splits by their names, and beside them {_some(rest)}; take these out, or "
            "name each file as a source of its own to make another split"
        )
    _check_complete(splits)
    return splits


def wrapping_folder(folders: Collection[str]) -> str:
    """Return the folder that wraps all class folders, with its slash, as unpacked downloads have one.

    ``folders`` are those with images. Empty where the class folders are at the top. A single class folder with
    ``images`` and ``masks`` in it is not a wrapper.
    """
    prefix = ""
    while True:
        outer: set[str] = set()
        inner: set[str] = set()
        for folder in folders:
            first, *more = f"{folder}/".removeprefix(prefix).split("/")
            outer.add(first)
            inner.update(name for name in more if name and not is_image_word(name) and not is_mask_word(name))
        if len(outer) != 1 or not inner:
            return prefix
        prefix += outer.pop() + "/"


def split_of_name(name: str) -> str | None:
    """Return train, val or test for the name of a folder such as Train, valid or test_set; None for another."""
    found = _SPLIT.fullmatch(name)
    return _SPLIT_NAMES[found["split"].lower()] if found else None


def check_case(names: Collection[str], where: str) -> None:
    """Check that no two classes differ in case only.

    Raises:
        RequestError: two of them do; ``where`` names the sources.
    """
    seen: dict[str, str] = {}
    for name in sorted(names):
        if (other := seen.setdefault(fold(name), name)) != name:
            raise RequestError(
                f"{where}: the classes {other} and {name} differ in case only; rename one of them, or make them one by "
                "labels.map"
            )


def _steps(parts: Sequence[str]) -> list[str]:
    """Return the folders of a path without those that separate images from masks."""
    return [part for part in parts if part and not is_image_word(part)]


def _at_level(paths: Sequence[Sequence[str]], level: int) -> ClassLayout:
    deepest = max(map(len, paths), default=0)
    if deepest <= level:
        raise RequestError(
            f"has {deepest} levels of folders, and layout.class_level is {level + 1}; give a smaller one"
        )
    splits = _splits(paths, 0) if level else {}
    if splits:
        _check_splits(paths, splits)
    return ClassLayout("", level, 0 if splits else None, splits)


def _splits(paths: Sequence[Sequence[str]], depth: int) -> dict[str, str]:
    """Return folder -> split, or "fold 3", for the folders at a depth; empty where they are no splits.

    Raises:
        RequestError: some of them are splits or folds, and others are not, or the folds are incomplete.
    """
    names = {path[depth] for path in paths if len(path) > depth}
    splits = {name: split for name in names if (split := split_of_name(name))}
    folds = {name: int(match["number"]) for name in names if (match := _FOLD.fullmatch(name))}
    for found, kind in ((splits, "splits"), (folds, "folds")):
        rest = names - found.keys()
        beside = depth > 0 and any(len(path) <= depth for path in paths)
        if found and (rest or beside):
            raise RequestError(
                f"has the folders {_some(found)}, {kind} by their names, and beside them "
                f"{_some(rest) or 'images'}; take these out, or say by layout.class_level which folders are the classes"
            )
    if len(set(splits.values())) < len(splits):
        raise RequestError(f"has several folders for one split: {_some(splits)}; keep one for each")
    return _number_folds(paths, depth, folds) if folds else splits


def _number_folds(paths: Sequence[Sequence[str]], depth: int, folds: Mapping[str, int]) -> dict[str, str]:
    """Return folder -> "fold 0", "fold 1" and so on.

    Raises:
        RequestError: the folders are less than three, or not numbered without a gap, or have splits of their own.
    """
    inside = {path[depth + 1] for path in paths if len(path) > depth + 1}
    if inner := {name for name in inside if split_of_name(name)}:
        raise RequestError(
            f"has the folds {_some(folds)} with {_some(inner)} in them, so that one image may be in several; give one "
            "of the folds as the source"
        )
    first = min(folds.values())
    if len(folds) < _LEAST_FOLDS or first > 1 or sorted(folds.values()) != list(range(first, first + len(folds))):
        raise RequestError(
            f"has the folders {_some(folds)}, folds by their names, which are not {_LEAST_FOLDS} or more, numbered "
            "from 0 or 1 without a gap; say by layout.class_level which folders are the classes"
        )
    return {name: f"{FOLD_PREFIX}{number - first}" for name, number in folds.items()}


def _check_splits(paths: Sequence[Sequence[str]], splits: Mapping[str, str]) -> None:
    """Check that there are train and test, and folders in or above each split, at the first two levels of paths."""
    _check_complete(splits)
    with_classes = {name for path in paths if len(path) > 1 for name in path[:2]}
    if bare := sorted(splits.keys() - with_classes):
        raise RequestError(
            f"has no class folders in {bare[0]}, one of {_some(splits)}; {LAYOUT} in each, or name the others as "
            "sources of their own"
        )


def _check_complete(splits: Mapping[str, str]) -> None:
    """Check that there are train and test; val may be missing, and is then drawn from train."""
    folds = any(split.startswith(FOLD_PREFIX) for split in splits.values())
    if lacking := [split for split in ("train", "test") if not folds and split not in splits.values()]:
        raise RequestError(
            f"has the splits {_some(splits)} and none for {lacking[0]}; add it, or give each of these as a source of "
            "its own to make another split"
        )


def _check_images(parts: Sequence[Sequence[str]]) -> None:
    """Check that a folder ``images`` at the top is not one of several kinds of images, as beside ``augmented``."""
    tops = {path[0] for path in parts if path[0]}
    words = {name for name in tops if is_image_word(name)}
    if words and (rest := {name for name in tops - words if not is_mask_word(name)}):
        raise RequestError(
            f"has the folder {_some(words)} and beside it {_some(rest)}; take out those that are no images of the "
            "dataset, or say by layout.class_level which folders are the classes"
        )


def _check_classes(paths: Sequence[Sequence[str]], level: int) -> None:
    """Check that the first folders of paths, which have no splits any more, are classes; ``level`` is for the hint."""
    names = {path[0] for path in paths}
    _check_masks(names)
    below: dict[str, set[str]] = {name: set() for name in names}
    for path in paths:
        below[path[0]].add(path[1] if len(path) > 1 else "")
    shared = set.intersection(*below.values())
    distinct = set.union(*below.values())
    numbered = all(map(_NUMBERED.search, shared))  # as patients are
    same = len(distinct) > 1 and (
        not numbered or (len(shared) > 1 and all(inner == shared for inner in below.values()))
    )
    if len(names) > 1 and shared and "" not in distinct and same and not (numbered and len(shared) > _MOST_CLASSES):
        raise RequestError(
            f"has the same subfolders, {_some(shared)}, in each of the folders {_some(names)}; say by "
            f"layout.class_level which are the classes: {level} for {min(names)}, {level + 1} for {min(shared)}"
        )


def _check_masks(names: Collection[str]) -> None:
    """Check that no class has the name of a folder of masks."""
    for name in sorted(names):
        stem, sure = mask_stem_of(name) or ("", is_mask_word(name))
        beside = stem and any(fold(stem) == fold(other) for other in names)
        if sure or beside:
            raise RequestError(
                f"has the folder {name}{f' beside {stem}' if beside else ''} where class folders should be: masks by "
                "its name, but its files have no images beside them by their names; say by masks.folder, masks.suffix "
                "or masks.prefix which files are masks"
            )


def _some(names: Collection[str], most: int = 6) -> str:
    listed = sorted(names)
    return ", ".join(listed[:most]) + (f" and {len(listed) - most} others" if len(listed) > most else "")
