"""Pairing of images with their masks by names, in folders, buckets and archives, by the conventions of masks."""

import re
import zlib
from array import array
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from overlay.errors import ErrorKind, Reason
from overlay.sources.conventions import FolderRole, MaskConventions, normal_form
from overlay.storage.filenames import escape_name

ORPHAN_MASK = Reason("mask without an image", ErrorKind.REFUSED)
"""reason of a mask whose image is not there"""
_NOT_UTF8 = Reason("its name is not UTF-8", ErrorKind.REFUSED)
PAIRED_NAMES = 16_384
"""most names that are paired in one step, which needs about 1 kB a name"""
_RECOGNISED = MaskConventions()
_NO_FOLDERS: Mapping[str, Collection[str]] = {}
_LEAST_REPEATS = 3
_LAST_PART = re.compile(r"(?P<rest>.+)(?P<part>[-_. ][^-_. \d][^-_. ]*)", re.DOTALL)
_FIRST_PART = re.compile(r"(?P<part>[^-_. \d]+[-_. ])(?P<rest>.+)", re.DOTALL)
_Key = tuple[str, str]


@dataclass(frozen=True)
class Pairing:
    """Images with their masks, and rejected names."""

    images: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """name of each image -> names of its masks, perhaps none"""
    rejected: dict[str, Reason] = field(default_factory=dict)
    """name -> reason"""
    masks: int = 0
    """number of masks among the names, including those without an image"""
    repeats: dict[str, int] = field(default_factory=dict)
    """text -> number of images without a mask whose name is that of another image with this text after or before it,
    such as _b for x_b.png beside x.png: perhaps masks by an unknown convention"""


def pair_in_steps(
    names: Sequence[str],
    conventions: MaskConventions = _RECOGNISED,
    folders: Mapping[str, Collection[str]] = _NO_FOLDERS,
) -> Iterator[Pairing]:
    """Pair images with their masks by relative names, in steps of bounded memory.

    An image and its masks are always in the same step. A mask without an image is rejected, and so is a name that is
    not UTF-8; an image without a mask is not. An image whose masks follow two conventions is rejected, since either may
    be the right one.

    ``folders``: path of a folder -> names of all the folders in it, where ``names`` are some of a larger listing.
    """
    roles = conventions.roles({_folder(name) for name in names}, folders)
    in_folders = any(role.role == "mask" for role in roles.values())
    if not in_folders and not any(conventions.read_mask(_stem(name)) for name in names):
        for start in range(0, len(names), PAIRED_NAMES):
            some = names[start : start + PAIRED_NAMES]
            odd = {name: _NOT_UTF8 for name in some if escape_name(name) != name}
            images: dict[str, tuple[str, ...]] = {name: () for name in some if name not in odd}
            yield Pairing(images, odd, repeats=_repeats(images, conventions))
        return
    steps = -(-len(names) // PAIRED_NAMES)
    step_of = array("I", (_hash(name, roles, conventions) % steps for name in names) if steps > 1 else ())
    for step in range(steps):
        some = names if steps == 1 else [name for name, own in zip(names, step_of, strict=True) if own == step]
        yield _pair(sorted(some), conventions, roles)


def _hash(name: str, roles: Mapping[str, FolderRole], conventions: MaskConventions) -> int:
    """Return a number that is equal for an image and its masks."""
    core = f"{roles[_folder(name)].key}/{conventions.core(_stem(name))}"
    return zlib.crc32(core.encode(errors="backslashreplace"))


class _Mask(NamedTuple):
    name: str
    stems: tuple[_Key, ...]
    """keys of the image, the likeliest first"""
    convention: str


def _pair(names: Sequence[str], conventions: MaskConventions, roles: Mapping[str, FolderRole]) -> Pairing:
    pairing = Pairing()
    with_masks = {role.key for role in roles.values() if role.role == "mask"}
    owners = _Owners(conventions)
    masks: list[_Mask] = []
    weak: list[_Mask] = []
    for name in names:
        if escape_name(name) != name:
            pairing.rejected[name] = _NOT_UTF8
            continue
        folder, stem = roles[_folder(name)], _stem(name)
        read = conventions.read_mask(stem)
        if folder.role == "mask":
            own = [(folder.key, stem)] + ([(folder.key, read.stem)] if read else [])
            masks.append(_Mask(name, tuple(own), f"folder {folder.word}"))
        elif read is None or (folder.role == "image" and folder.key in with_masks):
            owners.add(name, (folder.key, stem))
        else:
            found = _Mask(name, ((folder.key, read.stem),), f"name {read.word}")
            (weak if read.weak else masks).append(found)
    for mask in sorted(weak, key=lambda each: len(each.name)):  # x_roi before x_roi_gt, whose image it may be
        if owners.find(mask):
            masks.append(mask)
        else:
            owners.add(mask.name, (roles[_folder(mask.name)].key, _stem(mask.name)))
    _assign(pairing, owners, masks)
    return Pairing(pairing.images, pairing.rejected, len(masks), _repeats(pairing.images, conventions))


def repeated_text(repeats: Mapping[str, int], images: int) -> str | None:
    """Return the text that at least every third of ``images`` images adds to the name of another; None without one."""
    text, count = max(repeats.items(), key=lambda each: (each[1], each[0]), default=("", 0))
    return text if count >= _LEAST_REPEATS and 3 * count >= images else None


def _repeats(images: Mapping[str, tuple[str, ...]], conventions: MaskConventions) -> dict[str, int]:
    if conventions.own_stems:
        return {}
    bare = [(_folder(name), _stem(name)) for name, masks in images.items() if not masks]
    present = set(bare)
    found = Counter[str]()
    for folder, stem in bare:
        for pattern in (_LAST_PART, _FIRST_PART):
            if (parts := pattern.fullmatch(stem)) and (folder, parts["rest"]) in present:
                found[parts["part"]] += 1
    return dict(found)


class _Owners:
    """Images by the keys under which their masks may name them."""

    def __init__(self, conventions: MaskConventions) -> None:
        self._conventions = conventions
        self.names: list[str] = []
        self._exact: dict[_Key, list[str]] = {}
        self._short: dict[_Key, list[str]] = {}

    def add(self, name: str, key: _Key) -> None:
        self.names.append(name)
        self._exact.setdefault(key, []).append(name)
        if (short := self._conventions.read_image(key[1])) is not None:
            self._short.setdefault((key[0], short), []).append(name)

    def find(self, mask: _Mask) -> list[str]:
        """Return the images of a mask; several where their names differ in their endings only, else one or none."""
        for key in mask.stems:
            # In a folder of masks the name may equal the image's. That takes precedence: an image may be called x_mask.
            if found := self._exact.get(key) or self._short.get(key):
                return found
        return []


def _assign(pairing: Pairing, owners: _Owners, masks: Sequence[_Mask]) -> None:
    """Give each mask to its images, and reject masks without one and images whose masks follow two conventions."""
    conventions: dict[str, set[str]] = {}
    pairing.images.update(dict.fromkeys(sorted(owners.names), ()))
    for mask in sorted(masks, key=lambda each: (normal_form(each.name), each.name)):
        found = owners.find(mask)
        if not found:
            pairing.rejected[mask.name] = ORPHAN_MASK
        elif len({_stem(name) for name in found}) > 1:
            said = f"mask that several images may own: {', '.join(map(_file, found[:2]))}"
            pairing.rejected[mask.name] = Reason(said, ErrorKind.REFUSED)
        else:
            for owner in found:
                pairing.images[owner] += (mask.name,)
                conventions.setdefault(owner, set()).add(mask.convention)
    for owner, kinds in conventions.items():
        if len(kinds) > 1:
            both = " and ".join(sorted(kinds))
            said = f"masks by two conventions ({both}): say which by masks.suffix or masks.folder"
            pairing.rejected[owner] = Reason(said, ErrorKind.REFUSED)


def _folder(name: str) -> str:
    return name.rpartition("/")[0]


def _file(name: str) -> str:
    return name.rpartition("/")[2]


def _stem(name: str) -> str:
    # On the text: path objects would take most of the time of listing a million files.
    file = name.rpartition("/")[2]
    stem, dot, _ = file.rpartition(".")
    return normal_form(stem if dot and stem else file)
