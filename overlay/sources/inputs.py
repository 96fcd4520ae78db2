"""Listing of inputs by their names: images, their masks, and labels by folder names.

`overlay prepare` and `overlay predict` list folders, archives and files by these functions, in small portions, so that
memory doesn't grow with the number of inputs. No input is dropped: one that can't be used has a reason, and in the end
a row with this reason.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from typing import NamedTuple

from overlay.archives.index import ArchiveListing, list_archive
from overlay.config import Limits
from overlay.errors import ErrorKind, Reason, one_line
from overlay.images.ref import ImageRef
from overlay.sources.conventions import MaskConventions
from overlay.sources.dicom_frames import expand_files, expand_members
from overlay.sources.mask_pairing import pair_in_steps
from overlay.sources.parquet_images import GROUP_ROWS
from overlay.sources.read_plan import archive_passes
from overlay.storage.filenames import escape_name, impossible_name, sample_key
from overlay.storage.path import StoragePath
from overlay.storage.walk import Stamp, WalkedFolder, read_stamp

_PORTION = 1024
IRREGULAR = Reason("not a regular file: a pipe, a socket, a device, or a link that leads nowhere", ErrorKind.REFUSED)
"""reason of an input that is not a regular file"""


class Portion(NamedTuple):
    """Portion of a listing."""

    images: list[ImageRef]
    in_order: bool = False
    """whether one task must read them sequentially: see `overlay.sources.read_plan`"""
    group_rows: int = GROUP_ROWS
    """most inputs whose bytes may be in memory at one time"""
    passed_over: Mapping[str, int] = {}
    """kind -> number of files that are not images by their names, and of folders that are not entered"""
    masks: int = 0
    """number of masks among the names of this portion, including those without an image"""
    skipped: tuple[str, ...] = ()
    """folders that Overlay wrote, which are not entered"""
    repeats: Mapping[str, int] = {}
    """see `Pairing.repeats`"""


@dataclass(frozen=True)
class ListingRule:
    """Rule for ids and labels of all inputs of one source."""

    prefix: str
    """prefix of the ids"""
    limits: Limits
    classes: Sequence[str] | None = None
    """known classes, by which labels and folders are matched without regard to case; None: any label of a WebDataset
    or a table is taken, and folders are not"""
    source: str | None = None
    """name of the source"""
    masks: MaskConventions = field(default_factory=MaskConventions)
    named: bool = True
    """whether the prefix is the name of an input, so that it may be a label"""
    roots: tuple[StoragePath, ...] = ()
    """see `overlay.sources.data_address`"""

    def below(self, name: str) -> "ListingRule":
        """Return the rule for an archive or a table within the source, whose name extends the prefix."""
        return replace(self, prefix=f"{self.prefix}{name}/")

    def label(self, own: str | None, folder: str = "") -> str | None:
        """Return an image's label: its ``own`` from an archive or a table, or else the last class among its folders.

        ``folder`` is the path within the source. Folders above it don't count, except for the names of several sources,
        by which their ids begin: all images below /data/normal are not normal.
        """
        if self.classes is None:
            return own or None
        names = {known.lower(): known for known in self.classes}
        folders = reversed(f"{self.prefix if self.named else ''}{folder}".split("/"))
        return next((names[text.lower()] for text in (own or "", *folders) if text.lower() in names), None)


def list_files(names: Sequence[str], root: StoragePath, rule: ListingRule) -> Iterator[Portion]:
    """List files that were named one by one, by their paths relative to ``root``; masks are paired with images."""
    ordered = sorted(set(names))
    stamps: dict[str, Stamp] = {}
    if root.in_bucket:
        with ThreadPoolExecutor(32) as threads:  # one request a file
            stamps = dict(zip(ordered, threads.map(lambda name: _stamp_of_object(root / name), ordered), strict=True))
    stamp: Callable[[str], Stamp] = stamps.__getitem__ if stamps else lambda name: read_stamp(root / name)
    yield from list_walked_files(WalkedFolder(ordered, stamp), root, replace(rule, named=False))


def _stamp_of_object(place: StoragePath) -> Stamp:
    try:
        return read_stamp(place)
    except OSError:  # a row with the reason, when it is read
        return None, None


def list_walked_files(folder: WalkedFolder, root: StoragePath, rule: ListingRule) -> Iterator[Portion]:
    """List the files of a `WalkedFolder`, whose paths are relative to ``root``, in portions of at most 1024."""
    labels: dict[str, str | None] = {}
    for pairing in pair_in_steps(folder.names, rule.masks, folder.folders):
        masks, repeats = pairing.masks, pairing.repeats
        names = iter(sorted({*pairing.images, *pairing.rejected}))
        while some := list(islice(names, _PORTION)):
            images = []
            for name in some:
                parent = name.rpartition("/")[0]
                if parent not in labels:
                    labels[parent] = rule.label(None, parent)
                own = pairing.images.get(name, ())
                size, version = folder.stamp(name)
                reason = pairing.rejected.get(name) or file_problem(_uri(root, name), size, rule.limits)
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
            expanded = list(expand_files(images, origins=rule.classes is None))
            yield Portion(expanded, masks=masks, repeats=repeats)
            masks, repeats = 0, {}


def list_members(place: StoragePath, rule: ListingRule) -> Iterator[Portion]:
    """List an archive; a problem of the archive, or of a member, becomes an input with a reason.

    The archive is scanned by the call, and its members are listed while they are iterated over, in portions of at most
    1024; those that are read in order come last, in one portion for each pass.

    Raises:
        OSError: a DICOM file beyond the first portion can't be read, while they are iterated over.
    """
    uri = escape_name(str(place))
    try:
        listing, (_, version) = list_archive(place, rule.limits), read_stamp(place)
        portions = _list_members(listing, ImageRef("", uri, source=rule.source, version=version), place, rule)
        # Here, since several archives are listed at one time: the headers of DICOM files are read.
        return chain(list(islice(portions, 1)), portions)
    except OSError as error:
        id = escape_name(rule.prefix.rstrip("/") or place.name)
        reason = Reason(f"archive that can't be read: {one_line(error)}", ErrorKind.UNREADABLE)
        return iter([Portion([ImageRef(id, uri, source=rule.source, reason=reason)])])


def _list_members(listing: ArchiveListing, of: ImageRef, place: StoragePath, rule: ListingRule) -> Iterator[Portion]:
    """List the members of an archive, whose references are like ``of``."""
    waiting: list[ImageRef] = []
    in_order: list[ImageRef] = []
    masks, repeats = 0, Counter[str]()
    problems = [_problem_id(member, place, rule) for member, _ in listing.problems]
    asked, taken = frozenset(problems), set[str]()
    for pairing in pair_in_steps(listing.members.sorted_names(), rule.masks):
        spans = listing.members.find({*chain(pairing.images, pairing.rejected, *pairing.images.values())})
        images = []
        for name in sorted({*pairing.images, *pairing.rejected}):
            own = pairing.images.get(name, ())
            images.append(
                of._replace(
                    id=escape_name(rule.prefix + name),
                    member=escape_name(name),
                    masks=own,
                    label=rule.label(listing.labels.get(sample_key(name)), name.rpartition("/")[0]),
                    size=spans[name].size,
                    spans=tuple(spans[each] for each in (name, *own)),
                    reason=pairing.rejected.get(name),
                    drawn=bool(own),
                )
            )
        taken.update(image.id for image in images if image.id in asked)
        for image in expand_members(images, place, origins=rule.classes is None):
            (in_order if image.spans and image.spans[0].in_order_only else waiting).append(image)
        masks += pairing.masks
        repeats.update(pairing.repeats)
        while len(waiting) > _PORTION:
            yield Portion(waiting[:_PORTION])
            del waiting[:_PORTION]
    for first, (member, reason) in zip(problems, listing.problems, strict=True):
        id, number = first, 2
        while id in taken:
            id, number = f"{first}#{number}", number + 1
        taken.add(id)
        waiting.append(of._replace(id=id, member=None if member is None else escape_name(member), reason=reason))
    while len(waiting) > _PORTION:
        yield Portion(waiting[:_PORTION])
        del waiting[:_PORTION]
    yield Portion(waiting, passed_over=listing.passed_over, masks=masks, repeats=repeats)
    yield from (Portion(each, in_order=True) for each in archive_passes(in_order))


def _problem_id(member: str | None, place: StoragePath, rule: ListingRule) -> str:
    return escape_name(rule.prefix.rstrip("/") or place.name if member is None else rule.prefix + member)


def file_problem(path: str, size: int | None, limits: Limits) -> Reason | None:
    """Return the reason to reject a file by its size in bytes, None for one that is not there; or by its name."""
    if size is None:
        said = impossible_name(path)
        return None if said is None else Reason(said, ErrorKind.REFUSED)
    if size <= limits.member_bytes:
        return None
    said = f"file too large: {size} bytes, more than {limits.member_bytes} (limits.member_bytes)"
    return Reason(said, ErrorKind.TOO_LARGE)


def _uri(root: StoragePath, name: str) -> str:
    return str(root / name) if root.in_bucket else f"{root.text.rstrip('/')}/{name}"
