"""Pairing of images with their masks by file names, in folders, buckets and archives.

Two layouts are supported, and may be mixed: that of BUSI, where ``x.png`` has ``x_mask.png``, ``x_mask_1.png`` and so
on beside it; and folders ``images`` and ``masks`` at any level of the path.
"""

import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from overlay.storage.filenames import escape_name

IMAGE_FOLDERS = frozenset({"image", "images"})
MASK_FOLDERS = frozenset({"mask", "masks"})
ORPHAN_MASK = "mask without an image"
"""reason of a mask whose image is not there"""
PAIRED_NAMES = 16_384
"""most names that are paired in one step, which needs about 1 kB a name"""
_MASK_NAME = re.compile(r"(?P<stem>.+)_mask(_\d+)?", re.IGNORECASE)
_MASKED = re.compile(r"_mask|(^|/)masks?/", re.IGNORECASE)

Key = tuple[str, str]
"""path of a file's folder without parts ``images`` and ``masks``, and its name without extension"""


@dataclass(frozen=True)
class Pairing:
    """Images with their masks, and rejected names."""

    images: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """name of each image -> names of its masks, perhaps none"""
    rejected: dict[str, str] = field(default_factory=dict)
    """name -> reason"""
    masks: int = 0
    """number of masks among the names, including those without an image"""


def image_of_mask(stem: str) -> str | None:
    """Return the stem of the image from the stem of a mask, such as x from x_mask_1; None for other names."""
    named = _MASK_NAME.fullmatch(stem)
    return named["stem"] if named else None


def is_mask(name: str) -> bool:
    """Whether a relative name is that of a mask, by its folders or by its stem."""
    folders = set(name.lower().split("/")[:-1])
    if folders & MASK_FOLDERS:
        return True
    return not folders & IMAGE_FOLDERS and image_of_mask(_key(name)[1]) is not None


def pair_masks(names: Iterable[str]) -> Pairing:
    """Pair images with their masks by relative names, in any order.

    A mask without an image is rejected, and so is a name that is not UTF-8; an image without a mask is not.
    """
    images: dict[str, tuple[str, ...]] = {}
    rejected: dict[str, str] = {}
    of_key: dict[Key, list[str]] = {}
    masks: dict[Key, list[str]] = {}
    for name in sorted(names):
        if escape_name(name) != name:
            rejected[name] = "its name is not UTF-8"
        elif is_mask(name):
            masks.setdefault(_key(name), []).append(name)
        else:
            images[name] = ()
            of_key.setdefault(_key(name), []).append(name)
    for key, found in masks.items():
        # In a folder of masks the name may equal the image's. That takes precedence: an image may be called x_mask.
        owners = of_key.get(key) or of_key.get((key[0], image_of_mask(key[1]) or ""))
        for mask in found:
            if owners is None:
                rejected[mask] = ORPHAN_MASK
            for owner in owners or ():
                images[owner] += (mask,)
    return Pairing(images, rejected, sum(map(len, masks.values())))


def pair_in_steps(names: Sequence[str]) -> Iterator[Pairing]:
    """Pair as `pair_masks` does, in steps of bounded memory; an image and its masks are always in the same step."""
    if not any(map(_MASKED.search, names)):
        for start in range(0, len(names), PAIRED_NAMES):
            some = names[start : start + PAIRED_NAMES]
            odd = {name: "its name is not UTF-8" for name in some if escape_name(name) != name}
            yield Pairing({name: () for name in some if name not in odd}, odd)
        return
    steps = -(-len(names) // PAIRED_NAMES)
    for step in range(steps):
        yield pair_masks(names if steps == 1 else [name for name in names if _step_of(name, steps) == step])


def _step_of(name: str, steps: int) -> int:
    folder, stem = _key(name)
    while shorter := image_of_mask(stem):
        stem = shorter
    return zlib.crc32(f"{folder}/{stem}".encode(errors="backslashreplace")) % steps


def _key(name: str) -> Key:
    # On the text: path objects would take most of the time of listing a million files.
    folder, _, file = name.rpartition("/")
    stem, dot, _ = file.rpartition(".")
    kept = [each for each in folder.split("/") if each.lower() not in IMAGE_FOLDERS | MASK_FOLDERS]
    return "/".join(kept), stem if dot and stem else file
