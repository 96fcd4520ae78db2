"""Which of some names are masks, and whose: told from the names alone, so that it serves for any listing.

Three layouts are known, and may be mixed: class folders of images that carry their overlay already; BUSI's, where
``x.png`` has ``x_mask.png``, ``x_mask_1.png``, ... beside it; and class folders with ``images`` and ``masks`` folders
in them.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from overlay.storage.filenames import escape_name

IMAGE_FOLDERS = frozenset({"image", "images"})
MASK_FOLDERS = frozenset({"mask", "masks"})
_MASK_NAME = re.compile(r"(?P<stem>.+)_mask(_\d+)?", re.IGNORECASE)

Key = tuple[str, str]
"""folders of a file without the ``images`` or ``masks`` that sets them apart, and its name without the ending"""


@dataclass(frozen=True)
class Pairing:
    """What the names of one source say."""

    images: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """name of each image -> names of its masks"""
    rejected: dict[str, str] = field(default_factory=dict)
    """name -> reason"""


def image_of_mask(stem: str) -> str | None:
    """Return the name of the image that a mask is called after, both without ending; None for another name."""
    named = _MASK_NAME.fullmatch(stem)
    return named["stem"] if named else None


def is_mask(name: str) -> bool:
    """Whether a relative name, from the class folder on, is that of a mask."""
    folders = set(name.lower().split("/")[1:-1])
    if folders & MASK_FOLDERS:
        return True
    return not folders & IMAGE_FOLDERS and image_of_mask(_key(name)[1]) is not None


def wrapping_folder(names: list[str]) -> str:
    """Return the folder, with its slash, that holds the class folders and everything else, as unzipped downloads do.

    Empty where the class folders stand at the top. One class folder with ``images`` and ``masks`` in it is no wrapper.
    """
    prefix = ""
    while True:
        outer, inner = set(), set()
        for name in names:
            first, *more = name.removeprefix(prefix).split("/", 2)
            outer.add(first)
            if len(more) > 1:
                inner.add(more[0].lower())
        if len(outer) > 1 or not inner - IMAGE_FOLDERS - MASK_FOLDERS:
            return prefix
        prefix += outer.pop() + "/"


def pair_masks(names: Iterable[str]) -> Pairing:
    """Pair the images of one source with their masks, by relative names from the class folder on.

    Where any image of the source has a mask, one without is rejected; so is a mask without an image, and a file that
    lies beside the class folders. The order of ``names`` does not matter.
    """
    pairing = Pairing()
    masks: dict[Key, list[str]] = {}
    images: dict[Key, list[str]] = {}
    for name in sorted(names):
        if escape_name(name) != name:
            pairing.rejected[name] = "its name is not UTF-8"
        elif "/" not in name:
            pairing.rejected[name] = "lies beside the class folders, so it has no label"
        elif not is_mask(name):
            pairing.images[name] = ()
            images.setdefault(_key(name), []).append(name)
        else:
            masks.setdefault(_key(name), []).append(name)
    for key, found in masks.items():
        # In a folder of masks the name may be the image's own, and that comes first: an image may be called x_mask.
        owners = images.get(key) or images.get((key[0], image_of_mask(key[1]) or ""))
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


def _key(name: str) -> Key:
    # By text: path objects would take most of the time of listing a million files.
    folder, _, file = name.rpartition("/")
    stem, dot, _ = file.rpartition(".")
    label, *folders = folder.split("/")
    kept = [each for each in folders if each.lower() not in IMAGE_FOLDERS | MASK_FOLDERS]
    return "/".join([label, *kept]), stem if dot and stem else file
