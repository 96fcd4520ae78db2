"""Labelled sources of a prepared dataset: folders and archives with one subfolder a class.

Folders, buckets and archives are listed by `overlay.sources.inputs`, and give the same ids. No image is opened here:
damaged images and masks of another size are found when they are decoded. Decisions that need the whole listing (the
wrapping folder, whether a source has masks) are applied in a second pass over a spool on the disk.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from overlay.config import Limits
from overlay.errors import RequestError, one_line
from overlay.images.ref import ImageRef
from overlay.sources.input_folder import list_images
from overlay.sources.input_table import holds_images, list_table
from overlay.sources.inputs import ListingRule, Portion, list_members
from overlay.sources.mask_pairing import IMAGE_FOLDERS, MASK_FOLDERS, ORPHAN_MASK
from overlay.sources.resolve import locate_source, name_places
from overlay.sources.spool import RefSpool
from overlay.storage.filenames import (
    describe_passed_over,
    escape_name,
    file_kind,
    is_archive,
    is_image,
    is_table,
    safe_name,
)
from overlay.storage.path import StoragePath

LAYOUT = "give a folder with one subfolder for each class, such as benign/ and malignant/"
"""hint at the end of messages about sources"""

_SPLIT_FOLDERS = frozenset({"train", "training", "val", "valid", "validation", "test", "testing"})
_ARCHIVES_AT_ONCE = 8  # decompression and requests to a bucket wait outside Python's lock


@dataclass
class _Source:
    """One folder or archive, with counts of its listing."""

    place: StoragePath
    images: int = 0
    masks: int = 0
    passed_over: Counter[str] = field(default_factory=Counter)
    folders: set[str] = field(default_factory=set)
    """folders that hold images, relative to the place"""
    problem: str | None = None
    """first reason why something in an archive can't be used"""

    def count(self, portion: Portion) -> None:
        self.passed_over.update(portion.passed_over)
        self.masks += portion.masks
        for ref in portion.images:
            unusable_member = ref.member is not None and ref.spans is None and ref.reason is not None
            if unusable_member or (ref.reason and ref.id == self.place.name):
                self.problem = self.problem or ref.reason
            else:
                self.images += ref.reason != ORPHAN_MASK
                self.folders.add(_path(ref).rpartition("/")[0])


@dataclass(frozen=True)
class LabelledListing:
    """Listing of the sources of a dataset; the image references are in a spool on the disk."""

    sources: Sequence[_Source]
    spool: RefSpool
    class_folders: bool = True
    """whether folders are labels; else labels come from a table"""

    @property
    def images(self) -> int:
        """Number of images found, including rejected ones."""
        return sum(source.images for source in self.sources)

    @property
    def masks(self) -> int:
        """Number of masks found, including those without an image."""
        return sum(source.masks for source in self.sources)

    @property
    def passed_over(self) -> Counter[str]:
        """Kind -> number of files that are neither, and of folders that are not entered."""
        return sum((source.passed_over for source in self.sources), Counter[str]())

    def read(self) -> Iterator[tuple[ImageRef, str]]:
        """Yield each image reference with its final id, label and source, and its path within the source's class root.

        The path starts with the class folder; ``split.group_by`` and ``split.column`` refer to it.

        Raises:
            RequestError: a source has images but no class folders.
        """
        names = name_places([source.place for source in self.sources])
        befores = [f"{name}/" if len(self.sources) > 1 else "" for name in names]
        wrappers = [wrapping_folder(source.folders) if self.class_folders else "" for source in self.sources]
        for source, wrapper in zip(self.sources, wrappers, strict=True):
            if self.class_folders and source.folders == {wrapper.rstrip("/")}:
                raise RequestError(f"source {source.place} has images but no class folders; {LAYOUT}")
        for number, refs in self.spool.read():
            for ref in refs:
                path = _path(ref).removeprefix(wrappers[number])
                unusable = ref.spans is None and ref.member is not None and ref.reason is not None
                labelled = "/" in path and not (unusable and not (is_image(path) and safe_name(path) == path))
                reason = ref.reason
                if reason is None and self.class_folders and "/" not in path:
                    in_table = is_table(self.sources[number].place.name)
                    reason = "row without a label" if in_table else "lies beside the class folders, so it has no label"
                if reason is None and self.sources[number].masks and not ref.masks:
                    reason = "image without a mask, where others of its source have one"
                label = path.split("/", 1)[0] if labelled and self.class_folders else None
                id = befores[number] + path
                yield ref._replace(id=id, label=label, source=names[number], reason=reason), path


@dataclass
class ClassCounts:
    """Counter of the usable images of each class, and of the reasons against others."""

    usable: Counter[str] = field(default_factory=Counter)
    """class -> number of images without a reason"""
    reasons: dict[str, set[str]] = field(default_factory=dict)
    """class -> reasons of the images that can't be used"""

    def add(self, ref: ImageRef) -> None:
        """Count an image reference."""
        if ref.label is None:
            return
        if ref.reason is None:
            self.usable[ref.label] += 1
        else:
            self.reasons.setdefault(ref.label, set()).add(ref.reason)

    @property
    def classes(self) -> list[str]:
        """Sorted classes with at least one usable image."""
        return sorted(self.usable)

    def check(self, sources: Sequence[str]) -> None:
        """Check that the top folders are two or more classes.

        Raises:
            RequestError: a folder of images, masks or a split is where a class folder should be, there is only one
                class, or a class has no usable image.
        """
        where = ", ".join(sources)
        found = {*self.usable, *self.reasons}
        listed = ", ".join(sorted(found))
        if strangers := sorted(name for name in found if name.lower() in IMAGE_FOLDERS | MASK_FOLDERS):
            raise RequestError(f"{where}: {', '.join(strangers)} found where class folders should be; {LAYOUT}")
        if {name.lower() for name in found} <= _SPLIT_FOLDERS:
            raise RequestError(f"{where}: the folders {listed} are splits, not classes; give each of them as a source")
        if len(found) == 1:
            raise RequestError(f"{where}: only one class, {listed}, and a classifier needs two or more; {LAYOUT}")
        if vanished := sorted(found - self.usable.keys()):
            reasons = "; ".join(sorted(self.reasons[vanished[0]]))
            raise RequestError(
                f"{where}: no image of class {vanished[0]} is left ({reasons}); give images without a lesion an "
                "all-black mask, or put them into a source of their own"
            )


def list_labelled(
    sources: Sequence[str], limits: Limits, folder: Path, *, class_folders: bool = True
) -> LabelledListing:
    """List the sources of a dataset into a spool in ``folder``, a temporary folder.

    ``class_folders``: whether folders are labels; without, images may lie anywhere and come without a label.

    Raises:
        RequestError: a source does not exist, can't be read, is neither a folder nor an archive, is named twice, or
            holds no image.
    """
    places = [_place_of(source) for source in sources]
    real = [place.real for place in places]
    for place, itself in zip(places, real, strict=True):
        if real.count(itself) > 1:
            raise RequestError(f"source {place} is named twice; name it once")
    spool = RefSpool(folder / "listed")
    listed: list[_Source] = []
    for place in places:
        try:
            _list_place(place, limits, spool, listed)
        except OSError as error:
            raise RequestError(f"{place} can't be read: {one_line(error)}; check it and its permissions") from error
    for source in listed:
        if not source.folders and (source.problem is None or len(listed) == 1):
            raise RequestError(_empty(source))
    return LabelledListing(listed, spool, class_folders)


def wrapping_folder(folders: set[str]) -> str:
    """Return the folder that wraps all class folders, with its slash, as unpacked downloads have one.

    ``folders`` are those with images. Empty where the class folders are at the top. A single class folder with
    ``images`` and ``masks`` in it is not a wrapper.
    """
    prefix = ""
    while True:
        outer, inner = set(), set()
        for folder in folders:
            first, *more = f"{folder}/".removeprefix(prefix).split("/", 2)
            outer.add(first)
            if more and more[0]:
                inner.add(more[0].lower())
        if len(outer) != 1 or not inner - IMAGE_FOLDERS - MASK_FOLDERS:
            return prefix
        prefix += outer.pop() + "/"


def _list_place(place: StoragePath, limits: Limits, spool: RefSpool, listed: list[_Source]) -> None:
    """List a folder or an archive; a folder with archives and without images is replaced by its archives."""
    rule = ListingRule("", limits)
    archives = [place]
    if place.is_folder():
        source = _Source(place)
        archives = []
        for portion, names in list_images(place, rule):
            used = [name for name in names if is_archive(name) or holds_images(place / name)]
            archives += [place / name for name in used]
            source.count(portion)
            source.passed_over.update(file_kind(name) for name in names if name not in used)
            spool.add(len(listed), portion.images)
        if source.folders or not archives:
            source.passed_over.update(file_kind(archive.name) for archive in archives)
            listed.append(source)
            return
    with ThreadPoolExecutor(_ARCHIVES_AT_ONCE) as threads:
        for start in range(0, len(archives), _ARCHIVES_AT_ONCE):
            some = sorted(archives)[start : start + _ARCHIVES_AT_ONCE]
            for archive, portions in zip(some, threads.map(lambda each: _list_file(each, rule), some), strict=True):
                source = _Source(archive)
                for portion in portions:
                    source.count(portion)
                    spool.add(len(listed), portion.images)
                listed.append(source)


def _list_file(place: StoragePath, rule: ListingRule) -> list[Portion]:
    """List an archive, or a table of images."""
    return list(list_table(place, rule)) if is_table(place.name) else list_members(place, rule)


def _path(ref: ImageRef) -> str:
    """Return the path in a source; the label of a WebDataset, if any, is prepended as the class folder."""
    return f"{escape_name(ref.label).replace('/', '_')}/{ref.id}" if ref.label else ref.id


def _empty(source: _Source) -> str:
    if source.problem:
        return f"source {source.place} holds no image that can be used: {escape_name(source.problem)}"
    files = source.passed_over.total()
    kinds = describe_passed_over(source.passed_over)
    return f"source {source.place} holds no image among its {files} files{kinds}; {LAYOUT}"


def _place_of(source: str) -> StoragePath:
    place = locate_source(source, "source")
    if not place.is_folder() and not is_archive(place.name) and not is_table(place.name):
        raise RequestError(
            f"source {source} is a file, and neither an archive (.zip, .tar, .tar.gz, .tar.zst) nor a Parquet table; "
            f"{LAYOUT}"
        )
    return place
