"""The inputs of a prediction: which files are images, which are their masks, and whether a folder tells the label.

Unlike a source of `overlay prepare`, an input needs no class folders, and nothing that was named is left out: what
can't be used becomes an input with the reason, and in the end a row with it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pyarrow as pa

from overlay.errors import RequestError
from overlay.sources import is_image, is_mask, list_files, name_folders, pair

MANIFEST_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("uri", pa.string()),
        ("member", pa.string()),
        ("masks", pa.list_(pa.string())),
        ("true_label", pa.string()),
        ("reason", pa.string()),
    ]
)
"""a row of the manifest of a prediction"""


@dataclass(frozen=True)
class Input:
    """One image to classify."""

    id: str
    """path in the folder that was named, after that folder's name where there are several; unique"""
    uri: str
    member: str | None
    masks: tuple[str, ...]
    true_label: str | None
    """the nearest folder above the file that is called like a class"""
    reason: str | None
    """why it can't be used, where that is known from its name"""


@dataclass(frozen=True)
class Inputs:
    """All images to classify, in the order of their ids."""

    images: list[Input]
    passed_over: int
    """files in the folders that are no images by their names"""


def collect(inputs: Sequence[str], classes: Sequence[str]) -> Inputs:
    """List files and folders, these with all their subfolders.

    Raises:
        RequestError: an input isn't there, or there is no image in any of them.
    """
    files: dict[Path, list[str]] = {}
    passed_over = 0
    for given in inputs:
        path = Path(given).expanduser()
        if not path.exists():
            raise RequestError(f"input {given} is not there; check the path")
        if path.is_dir():
            listed = list_files(path.resolve())
            usable = [name for name in listed if is_image(name)]
            passed_over += len(listed) - len(usable)
            files.setdefault(path.resolve(), []).extend(usable)
        else:
            files.setdefault(path.resolve().parent, []).append(path.name)
    images = []
    for (root, names), folder in zip(files.items(), name_folders(list(files)), strict=True):
        images += _inputs(root, sorted(set(names)), f"{folder}/" if len(files) > 1 else "", classes)
    if not images:
        raise RequestError(f"no image in {', '.join(inputs)}; name image files, or folders that hold some")
    return Inputs(sorted(images, key=lambda image: image.id), passed_over)


def _inputs(root: Path, names: list[str], prefix: str, classes: Sequence[str]) -> list[Input]:
    # `pair` expects a class folder first; a prediction's input has none, so all get the same.
    pairing = pair([f"any/{name}" for name in names])
    found = []
    for name in names:
        masks = tuple(str(root / mask.removeprefix("any/")) for mask in pairing.images.get(f"any/{name}", ()))
        reason = pairing.rejected.get(f"any/{name}")
        if f"any/{name}" in pairing.images or reason is not None:
            if reason is not None and not is_mask(f"any/{name}") and str(root / name).isprintable():
                reason = None  # an image without a mask, where others have one: it can be classified all the same
            found.append(Input(prefix + name, str(root / name), None, masks, _label(root / name, classes), reason))
    return found


def _label(path: Path, classes: Sequence[str]) -> str | None:
    names = {name.lower(): name for name in classes}
    folders = [folder.lower() for folder in PurePosixPath(path).parts[:-1]]
    return next((names[folder] for folder in reversed(folders) if folder in names), None)
