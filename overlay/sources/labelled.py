"""From what the user has to records: which file is an image, which are its masks, and what its label is.

Folders, buckets and archives are read alike, and give the same ids. No image is opened here: broken ones and masks of
another size are found later, when they are decoded.
"""

from dataclasses import dataclass

from overlay.archives.entries import Span
from overlay.config import Limits
from overlay.errors import RequestError
from overlay.sources.listing import Holding, list_source, locate_source, name_places
from overlay.sources.mask_pairing import (
    IMAGE_FOLDERS,
    MASK_FOLDERS,
    image_of_mask,
    is_mask,
    pair_masks,
    wrapping_folder,
)
from overlay.storage.filenames import escape_name, is_archive, is_image, safe_name, sample_key
from overlay.storage.path import StoragePath

LAYOUT = "give a folder with one subfolder for each class, such as benign/ and malignant/"

_SPLIT_FOLDERS = frozenset({"train", "training", "val", "valid", "validation", "test", "testing"})


@dataclass(frozen=True, slots=True)
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
    """the source's folder name, or its archive's without the ending"""
    path: str
    """path within the source, from the class folder on"""
    spans: tuple[Span, ...] | None = None
    """where the image, and then its masks, lie in the archive; None for files"""


@dataclass(frozen=True)
class Rejected:
    """One file that takes no part, and why."""

    id: str
    uri: str
    label: str | None
    reason: str


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


def list_labelled(sources: list[str], limits: Limits | None = None) -> Collection:
    """List the sources and pair images with masks.

    Raises:
        RequestError: a source isn't there, is neither a folder nor an archive, is named twice, holds no image or no
            class folders; or all sources together hold one class only.
    """
    places = [_place_of(source) for source in sources]
    for place in places:
        if places.count(place) > 1:
            raise RequestError(f"source {place} is named twice; name it once")
    holdings = [holding for place in places for holding in list_source(place, limits or Limits())]
    records: list[Record] = []
    rejected: list[Rejected] = []
    images = masks = 0
    for holding, name in zip(holdings, name_places([holding.place for holding in holdings]), strict=True):
        before = f"{name}/" if len(holdings) > 1 else ""
        rejected += [_rejected(holding, member, reason, before) for member, reason in holding.troubles]
        if not holding.names and (not holding.troubles or len(holdings) == 1):
            raise RequestError(_empty(holding))
        found = _collect(holding, name, before)
        records += found.records
        rejected += found.rejected
        images += found.images
        masks += found.masks
    collection = Collection(
        sorted(records, key=lambda record: record.id),
        sorted(rejected, key=lambda record: record.id),
        images,
        masks,
        sum(holding.passed_over for holding in holdings),
    )
    _check_classes(collection, [str(place) for place in places])
    return collection


def _collect(holding: Holding, source: str, before: str) -> Collection:
    """Pair what one folder or archive holds; ``before`` is what its ids begin with."""
    names = {_with_label(name, holding): name for name in holding.names}
    prefix = wrapping_folder(list(names)) if names else ""
    paths = {path.removeprefix(prefix): name for path, name in names.items()}
    pairing = pair_masks(paths)
    if names and not pairing.images and all("/" not in path for path in pairing.rejected):
        raise RequestError(f"source {holding.place} has images but no class folders; {LAYOUT}")
    in_archive = holding.spans is not None
    records = []
    for path, mask_paths in pairing.images.items():
        own, others = paths[path], [paths[mask] for mask in mask_paths]
        records.append(
            Record(
                id=before + path,
                uri=holding.uri(own),
                member=own if in_archive else None,
                masks=tuple(others if in_archive else map(holding.uri, others)),
                label=_label(path),
                source=source,
                path=path,
                spans=holding.spans_of([own, *others]),
            )
        )
    rejected = [
        Rejected(
            escape_name(before + path),
            escape_name(holding.uri(paths[path])),
            _label(path) if "/" in path else None,
            reason,
        )
        for path, reason in pairing.rejected.items()
    ]
    masks = sum(map(is_mask, paths))
    return Collection(records, rejected, len(paths) - masks, masks, 0)


def _rejected(holding: Holding, member: str | None, reason: str, before: str) -> Rejected:
    """Make a row of what an archive holds that can't be used."""
    uri = escape_name(str(holding.place))
    if member is None:
        return Rejected(escape_name(before + holding.place.name), uri, None, reason)
    prefix = wrapping_folder(holding.names) if holding.names else ""
    path = member.removeprefix(prefix)
    labelled = "/" in path and is_image(path) and safe_name(path) == path
    return Rejected(escape_name(before + path), uri, _label(path) if labelled else None, reason)


def _empty(holding: Holding) -> str:
    if holding.troubles:
        reason = next((reason for name, reason in holding.troubles if name is None), holding.troubles[0][1])
        return f"source {holding.place} holds no image that can be used: {escape_name(reason)}"
    return f"source {holding.place} holds no image among its {holding.passed_over} files; {LAYOUT}"


def _with_label(name: str, holding: Holding) -> str:
    """Return a name with its WebDataset label as its class folder, where it has one; a mask has its image's."""
    if not holding.labels:
        return name
    key = sample_key(name)
    label = holding.labels.get(key) or holding.labels.get(image_of_mask(key) or "")
    return f"{label.replace('/', '_')}/{name}" if label else name


def _label(path: str) -> str:
    return escape_name(path.split("/", 1)[0])


def _place_of(source: str) -> StoragePath:
    place = locate_source(source, "source")
    if not place.is_folder() and not is_archive(place.name):
        raise RequestError(f"source {source} is a file and no archive (.zip, .tar, .tar.gz, .tar.zst); {LAYOUT}")
    return place


def _check_classes(collection: Collection, sources: list[str]) -> None:
    where = ", ".join(sources)
    found = {record.label for record in collection.records}
    found |= {record.label for record in collection.rejected if record.label is not None}
    listed = ", ".join(sorted(found))
    if strangers := sorted(name for name in found if name.lower() in IMAGE_FOLDERS | MASK_FOLDERS):
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
