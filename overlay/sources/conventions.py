"""Naming conventions of masks: which names of files and folders mean masks, and which image a mask belongs to.

Pure functions over names. A mask is known by its folder (``masks``, ``GT``, ``benign_masks`` beside ``benign``) or by
its file name (``x_mask.png``, ``mask_x.png``; ``x_tumor.png`` beside ``x.png``). Names are compared in Unicode's normal
form C, so that a copy from macOS (form D) is paired, and words without regard to case.
"""

import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from overlay.config import MaskNames

Role = Literal["image", "mask", ""]
"""what the folders of a file say of it"""

_SURE_FOLDERS = frozenset(("mask", "masks", "groundtruth", "groundtruths", "segmentation", "segmentations"))
_MASK_FOLDERS = _SURE_FOLDERS | {"gt", "seg", "segs", "label", "labels", "annotation", "annotations", "annot", "annots"}
_IMAGE_FOLDERS = frozenset(("image", "images", "img", "imgs"))
_IMAGE_DECORATIONS = _IMAGE_FOLDERS | {"input", "inputs", "original", "originals"}
_STRONG = "masks?"
_WEAK = "tumou?r|lesion|segmentation|segmented|seg|ground[-_ ]?truth|gt|labels?|annotations?|annot|contour|roi"
"""words that mean a mask beside its image only, since they may be part of another name"""
_IMAGE = "images?|img|original|orig|input|scan|bus|us"
_WORD = re.compile("mask|tumo|lesion|seg|gt|ground|label|annot|contour|roi", re.IGNORECASE)
"""a part of each word for masks"""
_NUMBER = r"(?:[-_ ]?\d+| ?\(\d+\))?"  # of one of several masks: x_mask_1, x_mask2, x_mask (2)


def _stems(words: str, number: str = "") -> re.Pattern[str]:
    """Return the pattern of names made of a stem and a word: after it, before it, or the word alone."""
    after = rf"(?P<stem>.+)[-_. ](?P<word>{words}){number}"
    before = rf"(?P<word_>{words})(?:[-_. ]|(?=\d))(?P<stem_>.+)"
    return re.compile(rf"{after}|{before}|(?P<alone>{words})", re.IGNORECASE | re.DOTALL)


_MASK_STEMS = ((False, _stems(_STRONG, _NUMBER)), (True, _stems(_WEAK, _NUMBER)))
_IMAGE_STEMS = _stems(_IMAGE)
_DECORATIONS = tuple(
    re.compile(text, re.IGNORECASE | re.DOTALL)
    for text in (
        r"(?P<stem>.+?)[-_. ]+(?P<word>ground[-_ ]?truth|[^-_. ]+)",
        r"(?P<word>ground[-_ ]?truth|[^-_. ]+)[-_. ]+(?P<stem>.+)",
    )
)
"""names of folders made of a stem and a word: x_masks, masks_x"""


class MaskStem(NamedTuple):
    """File name of a mask without its extension, taken apart."""

    stem: str
    """the image's name; empty where the name is the word alone, as in case1/image.png and case1/mask.png"""
    word: str
    """the part that says mask, in lower case"""
    weak: bool
    """whether it is a mask only beside its image"""


class FolderRole(NamedTuple):
    """Folders of a file, as far as they separate masks from images."""

    key: str
    """the path without the parts that do, equal for the images of a folder and for their masks"""
    role: Role
    word: str = ""
    """the part that says mask"""


@dataclass(frozen=True)
class MaskConventions:
    """Names of masks: those that are recognised, or those of the user's options (`MaskConventions.of`)."""

    stems: tuple[tuple[bool, re.Pattern[str]], ...] = _MASK_STEMS
    """(whether it is a weak one, pattern of the stem of a mask)"""
    folder: str | None = None
    """the user's folder of masks"""
    own_stems: bool = False
    """whether ``stems`` are the user's"""

    @classmethod
    def of(cls, names: MaskNames) -> "MaskConventions":
        """Return the conventions by the user's options; what these leave open stays as it is recognised."""
        own = []
        if names.suffix is not None:
            own.append(f"(?P<stem>.+)(?P<word>{re.escape(normal_form(names.suffix))}){_NUMBER}")
        if names.prefix is not None:
            own.append(f"(?P<word>{re.escape(normal_form(names.prefix))})(?P<stem>.+)")
        stems = tuple((False, re.compile(pattern, re.IGNORECASE | re.DOTALL)) for pattern in own)
        return cls(stems or _MASK_STEMS, names.folder, bool(own))

    def read_mask(self, stem: str) -> MaskStem | None:
        """Take the stem of a mask, in form C, apart; None for another name."""
        if not self.own_stems and not _WORD.search(stem):  # which saves most of the time of a million names
            return None
        for weak, pattern in self.stems:
            if found := pattern.fullmatch(stem):
                part = found.groupdict()
                stem = part["stem"] or part.get("stem_") or ""
                word = part["word"] or part.get("word_") or part["alone"] or ""
                return MaskStem(stem, word.lower(), weak)
        return None

    def read_image(self, stem: str) -> str | None:
        """Return the stem of an image, in form C, without a word for image, such as x for bus_x; None without one."""
        found = None if self.read_mask(stem) else _IMAGE_STEMS.fullmatch(stem)
        return None if found is None else found["stem"] or found["stem_"] or ""

    def core(self, stem: str) -> str:
        """Return what is left of a stem without words for masks and images; equal for an image and its masks."""
        while (mask := self.read_mask(stem)) or (shorter := self.read_image(stem)) is not None:
            stem = mask.stem if mask else shorter or ""
        return stem

    def is_mask_folder(self, name: str) -> bool:
        """Whether the name of a folder means masks, whatever is beside it."""
        if self.folder is not None:
            return fold(name) == fold(self.folder)
        return _flat(name) in _MASK_FOLDERS

    def siblings(self, names: Collection[str]) -> dict[str, FolderRole]:
        """Return the role of each of the folders of one folder; the key is their own part of the path.

        A folder of images is one called so, and also the only other one beside a folder of masks. ``x_masks`` is one
        of masks beside ``x`` or ``x_images``, and that is one of images beside ``x_masks`` or ``x``.
        """
        masks, images = self._separators(names)
        found = {name: FolderRole("", "mask", _flat(name)) for name in masks}
        found |= {name: FolderRole("", "image") for name in images}
        rest = [name for name in names if name not in found]
        decorated = {} if self.folder is not None else {name: parts for name in rest if (parts := _decorated(name))}
        stems = set(map(normal_form, rest))
        with_images = {stem for stem, role, _ in decorated.values() if role == "image"}
        with_masks = {stem for stem, role, _ in decorated.values() if role == "mask"}
        for name in rest:
            stem, role, word = decorated.get(name, (normal_form(name), "", ""))
            if role == "mask" and stem in stems | with_images:
                found[name] = FolderRole(stem, "mask", word)
            elif role == "image" and stem in stems | with_masks:
                found[name] = FolderRole(stem, "image")
            else:
                found[name] = FolderRole(normal_form(name), "")
        return found

    def roles(self, folders: Iterable[str], known: Mapping[str, Collection[str]] = {}) -> dict[str, FolderRole]:
        """Return the role of each folder that holds files, by its path, with slashes; "" is the root.

        ``known``: path of a folder -> names of all the folders in it, where ``folders`` are some of a larger listing.
        """
        parts = {folder: folder.split("/") if folder else [] for folder in folders}
        children: dict[tuple[str, ...], set[str]] = {}
        for path in parts.values():
            for depth, name in enumerate(path):
                children.setdefault(tuple(path[:depth]), set()).add(name)
        siblings = {
            above: self.siblings(sorted({*names, *known.get("/".join(above), ())})) for above, names in children.items()
        }
        found = {}
        for folder, path in parts.items():
            steps = [siblings[tuple(path[:depth])][name] for depth, name in enumerate(path)]
            mask = next((step for step in steps if step.role == "mask"), None)
            image = any(step.role == "image" for step in steps)
            key = "/".join(step.key for step in steps if step.key)
            found[folder] = FolderRole(key, "mask" if mask else "image" if image else "", mask.word if mask else "")
        return found

    def group(self, names: Collection[str]) -> dict[str, str]:
        """Return folder -> key for each of the folders of one folder; images and their masks have equal keys.

        Empty is the key of a folder whose files belong to the folder above. For `overlay.storage.walk.walk_folder`.
        """
        masks, images = self._separators(names)
        keys = {}
        for name in names:
            parts = _decorated(name) if self.folder is None else None
            keys[name] = "" if name in masks | images else parts[0] if parts else normal_form(name)
        return keys

    def _separators(self, names: Collection[str]) -> tuple[set[str], set[str]]:
        """Return which of the folders of one folder are of masks and of images, whatever their stem."""
        masks = {name for name in names if self.is_mask_folder(name)}
        images = {name for name in names if name not in masks and is_image_word(name)}
        others = set(names) - masks
        return masks, others if masks and not images and len(others) == 1 else images


def normal_form(text: str) -> str:
    """Return a text in Unicode's normal form C."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def fold(text: str) -> str:
    """Return the form in which names are compared without regard to case and Unicode form."""
    return text.lower() if text.isascii() else normal_form(normal_form(text).casefold())


def is_image_word(folder: str) -> bool:
    """Whether the name of a folder means images, as opposed to masks."""
    return _flat(folder) in _IMAGE_FOLDERS


def is_mask_word(folder: str) -> bool:
    """Whether the name of a folder means masks, as opposed to images."""
    return _flat(folder) in _MASK_FOLDERS


def mask_stem_of(folder: str) -> tuple[str, bool] | None:
    """Return x for the name x_masks of a folder, and whether it means masks even without x beside; None for others."""
    parts = _decorated(folder)
    return (parts[0], parts[2] in _SURE_FOLDERS) if parts and parts[1] == "mask" else None


def _decorated(name: str) -> tuple[str, Role, str] | None:
    """Return stem, role and word of a folder called x_masks or images-x; None for another name."""
    for pattern in _DECORATIONS:
        if found := pattern.fullmatch(normal_form(name)):
            word = _flat(found["word"])
            if word in _MASK_FOLDERS:
                return found["stem"], "mask", word
            if word in _IMAGE_DECORATIONS:
                return found["stem"], "image", word
    return None


def _flat(name: str) -> str:
    """Return a name in lower case without separators, as its words are listed."""
    return re.sub("[-_. ]", "", name).lower()
