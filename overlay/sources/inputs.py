"""The inputs of a prediction: which files are images, which are their masks, and whether a folder tells the label.

They come from folders, archives and files in small portions, so that a million of them are never held at one time.
Unlike a source of `overlay prepare`, an input needs no class folders, and nothing that was named is left out: what
can't be used becomes an input with the reason, and in the end a row with it.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import PurePosixPath
from typing import NamedTuple

from overlay.config import Limits
from overlay.images.ref import ImageRef
from overlay.sources.listing import in_archive
from overlay.sources.mask_pairing import is_mask, pair_masks
from overlay.sources.parquet_images import GROUP_ROWS
from overlay.sources.read_plan import archive_passes
from overlay.storage.filenames import escape_name, sample_key
from overlay.storage.path import StoragePath
from overlay.storage.walk import Stamp, stamp_of

_PORTION = 1024
_MASKED = re.compile(r"_mask|(^|/)masks?/", re.IGNORECASE)


class Portion(NamedTuple):
    """Some of the inputs."""

    images: list[ImageRef]
    in_order: bool = False
    """whether one task must read them, one after the other: see `overlay.sources.reader`"""
    group_rows: int = GROUP_ROWS
    """most inputs whose bytes may be in memory at one time"""
    passed_over: int = 0
    """files that are no images by their names"""


class Naming(NamedTuple):
    """What all inputs of one source share."""

    prefix: str
    """what their ids begin with"""
    classes: Sequence[str]
    limits: Limits

    def label(self, *told: str) -> str | None:
        """Return the first that names a class, in the class's own spelling."""
        names = {known.lower(): known for known in self.classes}
        return next((names[text.lower()] for text in told if text.lower() in names), None)


def from_files(names: Sequence[str], root: StoragePath, naming: Naming) -> Iterator[Portion]:
    """Take files that were named one by one, by their paths relative to ``root``; a mask goes to its image.

    Raises:
        OSError: a bucket can't be asked for their sizes.
    """
    ordered = sorted(set(names))
    if root.in_bucket:
        with ThreadPoolExecutor(32) as threads:  # each is a request
            stamps = dict(zip(ordered, threads.map(lambda name: stamp_of(root / name), ordered), strict=True))
    else:
        stamps = {}
    stamp = stamps.__getitem__ if stamps else lambda name: stamp_of(root / name)
    yield from portions(from_names(ordered, root, stamp, naming))


def from_archive(place: StoragePath, naming: Naming) -> list[Portion]:
    """List an archive; whatever is wrong with it or a member becomes an input with the reason.

    Raises:
        OSError: the file can't be read.
    """
    held = in_archive(place, naming.limits)
    uri, (_, version) = escape_name(str(place)), stamp_of(place)
    masks_of, rejected = _pairing(sorted(held.names))
    above = PurePosixPath(place.path).parts
    images = []
    for name in sorted({*masks_of, *rejected}):
        masks = masks_of.get(name, ())
        folders = [*above, *PurePosixPath(name).parts[:-1]]
        span = (held.spans or {})[name]
        images.append(
            ImageRef(
                id=escape_name(naming.prefix + name),
                uri=uri,
                member=escape_name(name),
                masks=masks,
                true_label=naming.label(held.labels.get(sample_key(name), ""), *reversed(folders)),
                reason=rejected.get(name),
                drawn=bool(masks),
                size=span.size,
                version=version,
                spans=held.spans_of([name, *masks]),
            )
        )
    taken = {image.id for image in images}
    for member, reason in held.troubles:
        first = id = escape_name(naming.prefix.rstrip("/") or place.name if member is None else naming.prefix + member)
        number = 2
        while id in taken:
            id, number = f"{first}#{number}", number + 1
        taken.add(id)
        images.append(
            ImageRef(id, uri, None if member is None else escape_name(member), reason=reason, version=version)
        )
    at_once = [image for image in images if not (image.spans and image.spans[0].in_order_only)]
    in_order = [image for image in images if image.spans and image.spans[0].in_order_only]
    return [
        Portion(at_once, passed_over=held.passed_over),
        *(Portion(each, in_order=True) for each in archive_passes(in_order)),
    ]


def from_names(
    names: list[str], root: StoragePath, stamp: Callable[[str], Stamp], naming: Naming
) -> Iterator[ImageRef]:
    """Make inputs of files that may belong together, by their paths relative to ``root``."""
    masks_of, rejected = _pairing(names)
    labels: dict[str, str | None] = {}
    above = PurePosixPath(root.path).parts
    most = naming.limits.member_bytes
    for name in names:
        if name not in masks_of and name not in rejected:
            continue  # a mask of another
        masks = masks_of.get(name, ())
        folder = name.rpartition("/")[0]
        if folder not in labels:
            labels[folder] = naming.label(*reversed([*above, *folder.split("/")]))
        size, version = stamp(name)
        versions = [version, *(stamp(mask)[1] for mask in masks)] if masks else [version]
        yield ImageRef(
            id=escape_name(naming.prefix + name),
            uri=escape_name(_uri(root, name)),
            masks=tuple(_uri(root, mask) for mask in masks),
            true_label=labels[folder],
            reason=rejected.get(name) or too_large(size, most),
            drawn=bool(masks),
            size=size,
            version=";".join(each or "" for each in versions),
        )


def too_large(size: int | None, most: int) -> str | None:
    """Return the reason why a file of ``size`` bytes is not read, if there is one."""
    if size is None or size <= most:
        return None
    return f"file too large: {size} bytes, more than {most} (limits.member_bytes)"


def _pairing(names: list[str]) -> tuple[dict[str, tuple[str, ...]], dict[str, str]]:
    """Return the masks of each image, and the reasons why some names can't be used."""
    if not any(map(_MASKED.search, names)):
        odd = {name: "its name is not UTF-8" for name in names if escape_name(name) != name}
        return {name: () for name in names if name not in odd}, odd
    # `pair` expects a class folder first; a prediction's input has none, so all get the same.
    pairing = pair_masks([f"any/{name}" for name in names])
    images = {name[4:]: tuple(mask[4:] for mask in masks) for name, masks in pairing.images.items()}
    rejected = {}
    for name, reason in pairing.rejected.items():
        if is_mask(name) or escape_name(name) != name:
            rejected[name[4:]] = reason
        else:
            images[name[4:]] = ()  # an image without a mask, where others have one: it can be classified all the same
    return images, rejected


def _uri(root: StoragePath, name: str) -> str:
    return str(root / name) if root.in_bucket else f"{root.text.rstrip('/')}/{name}"


def portions(images: Iterable[ImageRef]) -> Iterator[Portion]:
    """Divide inputs that any task can read into portions."""
    left = iter(images)
    while portion := list(islice(left, _PORTION)):
        yield Portion(portion)
