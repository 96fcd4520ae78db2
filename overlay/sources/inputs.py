"""Inputs by their names: which files are images, which are their masks, and what their folders say of the label.

`overlay prepare` and `overlay predict` list by these functions, from folders, archives and files, in small portions, so
that a million of them are never held at one time. Nothing that was named is left out: what can't be used becomes an
input with the reason, and in the end a row with it.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import PurePosixPath
from typing import NamedTuple

from overlay.archives.index import list_archive
from overlay.config import Limits
from overlay.images.ref import ImageRef
from overlay.sources.mask_pairing import pair_in_steps, pair_masks
from overlay.sources.parquet_images import GROUP_ROWS
from overlay.sources.read_plan import archive_passes
from overlay.storage.filenames import escape_name, sample_key
from overlay.storage.path import StoragePath
from overlay.storage.walk import Stamp, WalkedFolder, stamp_of

_PORTION = 1024
IRREGULAR = "not a regular file: a pipe, a socket, a device, or a link that leads nowhere"


class Portion(NamedTuple):
    """Some of the inputs."""

    images: list[ImageRef]
    in_order: bool = False
    """whether one task must read them, one after the other: see `overlay.sources.read_plan`"""
    group_rows: int = GROUP_ROWS
    """most inputs whose bytes may be in memory at one time"""
    passed_over: int = 0
    """files that are no images by their names, and folders that are not entered"""
    masks: int = 0
    """masks among the names of this portion, those without an image too"""


@dataclass(frozen=True)
class ListingRule:
    """Rules that all inputs of one source share."""

    prefix: str
    """what their ids begin with"""
    limits: Limits
    classes: Sequence[str] | None = None
    """classes that a folder or a table may name, in any case; None where any word of a WebDataset or a table counts,
    and no folder does"""
    source: str | None = None
    """name of the source"""

    def below(self, name: str) -> "ListingRule":
        """Return the rule of what lies in an archive or a table in the source."""
        return replace(self, prefix=f"{self.prefix}{name}/")

    def label(self, told: str | None, folders: Iterable[str]) -> str | None:
        """Return the label by what is ``told`` of the image itself, or else by the nearest of its ``folders``."""
        if self.classes is None:
            return told or None
        names = {known.lower(): known for known in self.classes}
        return next((names[text.lower()] for text in (told or "", *folders) if text.lower() in names), None)


def list_files(names: Sequence[str], root: StoragePath, rule: ListingRule) -> Iterator[Portion]:
    """List files that were named one by one, by their paths relative to ``root``; a mask goes to its image.

    Raises:
        OSError: a bucket can't be asked for their sizes.
    """
    ordered = sorted(set(names))
    stamps: dict[str, Stamp] = {}
    if root.in_bucket:
        with ThreadPoolExecutor(32) as threads:  # each is a request
            stamps = dict(zip(ordered, threads.map(lambda name: stamp_of(root / name), ordered), strict=True))
    stamp: Callable[[str], Stamp] = stamps.__getitem__ if stamps else lambda name: stamp_of(root / name)
    yield from list_together(WalkedFolder(ordered, stamp), root, rule)


def list_together(folder: WalkedFolder, root: StoragePath, rule: ListingRule) -> Iterator[Portion]:
    """List files that may belong together, a portion at a time, by their paths relative to ``root``."""
    labels: dict[str, str | None] = {}
    above = PurePosixPath(root.path).parts
    for pairing in pair_in_steps(folder.names):
        masks = pairing.masks
        names = iter(sorted({*pairing.images, *pairing.rejected}))
        while some := list(islice(names, _PORTION)):
            images = []
            for name in some:
                parent = name.rpartition("/")[0]
                if parent not in labels:
                    labels[parent] = rule.label(None, reversed([*above, *parent.split("/")]))
                own = pairing.images.get(name, ())
                size, version = folder.stamp(name)
                reason = pairing.rejected.get(name) or too_large(size, rule.limits.member_bytes)
                images.append(
                    ImageRef(
                        id=escape_name(rule.prefix + name),
                        uri=escape_name(_uri(root, name)),
                        masks=tuple(_uri(root, mask) for mask in own),
                        label=labels[parent],
                        source=rule.source,
                        size=size,
                        version=";".join(each or "" for each in (version, *(folder.stamp(mask)[1] for mask in own))),
                        reason=IRREGULAR if name in folder.irregular else reason,
                        drawn=bool(own),
                    )
                )
            yield Portion(images, masks=masks)
            masks = 0


def list_members(place: StoragePath, rule: ListingRule) -> list[Portion]:
    """List an archive; whatever is wrong with it or a member becomes an input with the reason.

    Raises:
        OSError: the file can't be read.
    """
    held = list_archive(place, rule.limits)
    uri, (_, version) = escape_name(str(place)), stamp_of(place)
    pairing = pair_masks(held.members)
    above = PurePosixPath(place.path).parts
    images = []
    for name in sorted({*pairing.images, *pairing.rejected}):
        masks = pairing.images.get(name, ())
        folders = [*above, *PurePosixPath(name).parts[:-1]]
        span = held.members[name]
        images.append(
            ImageRef(
                id=escape_name(rule.prefix + name),
                uri=uri,
                member=escape_name(name),
                masks=masks,
                label=rule.label(held.labels.get(sample_key(name)), reversed(folders)),
                source=rule.source,
                size=span.size,
                version=version,
                spans=tuple(held.members[each] for each in (name, *masks)),
                reason=pairing.rejected.get(name),
                drawn=bool(masks),
            )
        )
    taken = {image.id for image in images}
    for member, reason in held.troubles:
        first = id = escape_name(rule.prefix.rstrip("/") or place.name if member is None else rule.prefix + member)
        number = 2
        while id in taken:
            id, number = f"{first}#{number}", number + 1
        taken.add(id)
        name_in = None if member is None else escape_name(member)
        images.append(ImageRef(id, uri, name_in, source=rule.source, version=version, reason=reason))
    at_once = [image for image in images if not (image.spans and image.spans[0].in_order_only)]
    in_order = [image for image in images if image.spans and image.spans[0].in_order_only]
    return [
        Portion(at_once, passed_over=held.passed_over, masks=pairing.masks),
        *(Portion(each, in_order=True) for each in archive_passes(in_order)),
    ]


def too_large(size: int | None, most: int) -> str | None:
    """Return the reason why a file of ``size`` bytes is not read, if there is one."""
    if size is None or size <= most:
        return None
    return f"file too large: {size} bytes, more than {most} (limits.member_bytes)"


def _uri(root: StoragePath, name: str) -> str:
    return str(root / name) if root.in_bucket else f"{root.text.rstrip('/')}/{name}"
