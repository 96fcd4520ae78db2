"""From what the user has to records: which file is an image, which are its masks, and what its label is.

Everything is told from names alone, so that `pair` serves for any listing. Three layouts are known, and may be mixed:
class folders of images that carry their overlay already; BUSI's, where ``x.png`` has ``x_mask.png``, ``x_mask_1.png``,
... beside it; and class folders with ``images`` and ``masks`` folders in them. No file is opened here: broken images
and masks of another size are found later, when they are decoded.
"""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from overlay.errors import RequestError

# What files of overlay.images.FORMATS are called.
IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".avif", ".jp2", ".ppm", ".pgm")
LAYOUT = "give a folder with one subfolder for each class, such as benign/ and malignant/"

_IMAGE_FOLDERS = frozenset({"image", "images"})
_MASK_FOLDERS = frozenset({"mask", "masks"})
_SPLIT_FOLDERS = frozenset({"train", "training", "val", "valid", "validation", "test", "testing"})
_MASK_NAME = re.compile(r"(?P<stem>.+)_mask(_\d+)?", re.IGNORECASE)


@dataclass(frozen=True)
class Record:
    """One image, its masks and its label."""

    id: str
    """path in the source, after the source's name where there are several; unique, the same on every machine"""
    uri: str
    """file that holds the image"""
    member: str | None
    """name within the file, for an archive"""
    masks: tuple[str, ...]
    """files of its masks (members of the same archive, where ``member`` is given), in the order of their names"""
    label: str
    source: str
    """the source's folder name"""
    path: str
    """path within the source, from the class folder on"""


@dataclass(frozen=True)
class Rejected:
    """One file that takes no part, and why."""

    id: str
    uri: str
    label: str | None
    reason: str


@dataclass(frozen=True)
class Pairing:
    """What the names of one source say."""

    images: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """name of each image -> names of its masks"""
    rejected: dict[str, str] = field(default_factory=dict)
    """name -> reason"""


@dataclass(frozen=True)
class Collection:
    """What all sources hold, in the order of the ids."""

    records: list[Record]
    rejected: list[Rejected]
    images: int
    """images found, the rejected ones among them"""
    masks: int
    """masks found, those without an image among them"""
    passed_over: int
    """files that are neither: other endings, hidden files, leftovers of operating systems"""

    @property
    def classes(self) -> list[str]:
        """The labels, sorted."""
        return sorted({record.label for record in self.records})


def collect(sources: list[str]) -> Collection:
    """List the sources and pair images with masks.

    Raises:
        RequestError: a source isn't there, isn't a folder, is named twice, holds no image or no class folders; or all
            sources together hold one class only.
    """
    folders = [_folder(source) for source in sources]
    for folder in folders:
        if folders.count(folder) > 1:
            raise RequestError(f"source {folder} is named twice; name it once")
    records, rejected = [], []
    images = masks = passed_over = 0
    for folder, name in zip(folders, name_folders(folders), strict=True):
        files = list_files(folder)
        usable = [file for file in files if is_image(file)]
        if not usable:
            raise RequestError(f"source {folder} holds no image among its {len(files)} files; {LAYOUT}")
        passed_over += len(files) - len(usable)
        prefix = wrapper(usable)
        pairing = pair([file.removeprefix(prefix) for file in usable])
        if not pairing.images and all("/" not in path for path in pairing.rejected):
            raise RequestError(f"source {folder} has images but no class folders; {LAYOUT}")
        root = folder / prefix
        masks += sum(is_mask(file.removeprefix(prefix)) for file in usable)
        images += sum(not is_mask(file.removeprefix(prefix)) for file in usable)
        before = f"{name}/" if len(folders) > 1 else ""
        for path, mask_paths in pairing.images.items():
            uris = tuple(str(root / mask) for mask in mask_paths)
            records.append(Record(before + path, str(root / path), None, uris, _label(path), name, path))
        for path, reason in pairing.rejected.items():
            label = _label(path) if "/" in path else None
            rejected.append(Rejected(_escaped(before + path), _escaped(str(root / path)), label, reason))
    collection = Collection(
        sorted(records, key=lambda record: record.id),
        sorted(rejected, key=lambda record: record.id),
        images,
        masks,
        passed_over,
    )
    _check_classes(collection, [str(folder) for folder in folders])
    return collection


def is_image(name: str) -> bool:
    """Whether a relative name may be an image or a mask: a known ending, nothing hidden, no leftover of macOS."""
    path = PurePosixPath(name)
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in path.parts)
    return not hidden and path.suffix.lower() in IMAGE_ENDINGS


def is_mask(name: str) -> bool:
    """Whether a relative name, from the class folder on, is that of a mask."""
    path = PurePosixPath(name)
    folders = {part.lower() for part in path.parts[1:-1]}
    if folders & _MASK_FOLDERS:
        return True
    return not folders & _IMAGE_FOLDERS and _MASK_NAME.fullmatch(path.stem) is not None


def wrapper(names: list[str]) -> str:
    """Return the folder, with its slash, that holds the class folders and everything else, as unzipped downloads do.

    Empty where the class folders stand at the top. One class folder with ``images`` and ``masks`` in it is no wrapper.
    """
    prefix = ""
    while True:
        parts = [PurePosixPath(name.removeprefix(prefix)).parts for name in names]
        inner = {part[1].lower() for part in parts if len(part) > 2}
        single = len({part[0] for part in parts}) == 1 and bool(inner - _IMAGE_FOLDERS - _MASK_FOLDERS)
        if not single:
            return prefix
        prefix += parts[0][0] + "/"


def pair(names: Iterable[str]) -> Pairing:
    """Pair the images of one source with their masks, by relative names from the class folder on.

    Where any image of the source has a mask, one without is rejected; so is a mask without an image, and a file that
    lies beside the class folders. The order of ``names`` does not matter.
    """
    pairing = Pairing()
    masks: dict[tuple[str, ...], list[str]] = {}
    images: dict[tuple[str, ...], list[str]] = {}
    for name in sorted(names):
        if _escaped(name) != name:
            pairing.rejected[name] = "its name is not UTF-8"
        elif "/" not in name:
            pairing.rejected[name] = "lies beside the class folders, so it has no label"
        elif not is_mask(name):
            pairing.images[name] = ()
            images.setdefault((*_place(name), PurePosixPath(name).stem), []).append(name)
        else:
            masks.setdefault((*_place(name), PurePosixPath(name).stem), []).append(name)
    for key, found in masks.items():
        # In a folder of masks the name may be the image's own, and that comes first: an image may be called x_mask.
        named = _MASK_NAME.fullmatch(key[-1])
        owners = images.get(key) or (images.get((*key[:-1], named["stem"])) if named else None)
        for mask in found:
            if owners is None:
                pairing.rejected[mask] = "mask without an image"
            for owner in owners or ():
                pairing.images[owner] += (mask,)
    if masks:
        for name in [name for name, found in pairing.images.items() if not found]:
            del pairing.images[name]
            pairing.rejected[name] = "image without a mask, where others of its source have one"
    return pairing


def _label(path: str) -> str:
    return _escaped(path.split("/", 1)[0])


def _escaped(name: str) -> str:
    """Write the bytes of a name that are not UTF-8, which Python holds as lone surrogates, as escapes."""
    return name.encode(errors="backslashreplace").decode()


def _place(name: str) -> tuple[str, ...]:
    """Return the folders of a file without the ``images`` or ``masks`` that sets images and masks apart."""
    label, *folders = PurePosixPath(name).parts[:-1]
    return (label, *(folder for folder in folders if folder.lower() not in _IMAGE_FOLDERS | _MASK_FOLDERS))


def _folder(source: str) -> Path:
    path = Path(source).expanduser()
    if not path.exists():
        raise RequestError(f"source {source} is not there; check the path")
    if not path.is_dir():
        raise RequestError(f"source {source} is a file; {LAYOUT}")
    return path.resolve()


def name_folders(folders: list[Path]) -> list[str]:
    """Name each source by its folder; equal names are numbered in the order in which they were given."""
    names: list[str] = []
    for folder in folders:
        name, number = folder.name, 2
        while name in names:
            name, number = f"{folder.name}-{number}", number + 1
        names.append(name)
    return names


def list_files(folder: Path) -> list[str]:
    """Return the relative names, with slashes, of all files below a folder; a link to a folder is followed once."""
    names, seen = [], set()
    for place, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        names += [Path(place, file).relative_to(folder).as_posix() for file in files]
    return names


def _check_classes(collection: Collection, sources: list[str]) -> None:
    where = ", ".join(sources)
    found = {record.label for record in collection.records}
    found |= {record.label for record in collection.rejected if record.label is not None}
    listed = ", ".join(sorted(found))
    if strangers := sorted(name for name in found if name.lower() in _IMAGE_FOLDERS | _MASK_FOLDERS):
        raise RequestError(f"{where}: {', '.join(strangers)} found where class folders should be; {LAYOUT}")
    if {name.lower() for name in found} <= _SPLIT_FOLDERS:
        raise RequestError(f"{where}: the folders {listed} are splits, not classes; give each of them as a source")
    if len(found) == 1:
        raise RequestError(f"{where}: only one class, {listed}, and a classifier needs two or more; {LAYOUT}")
    if vanished := sorted(found - {record.label for record in collection.records}):
        reasons = sorted({record.reason for record in collection.rejected if record.label == vanished[0]})
        raise RequestError(
            f"{where}: no image of class {vanished[0]} is left ({'; '.join(reasons)}); give images without a lesion an "
            "all-black mask, or put them into a source of their own"
        )
