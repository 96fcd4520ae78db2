"""Labelled sources of a prepared dataset: folders and archives with one subfolder a class.

Folders, buckets and archives are listed by `overlay.sources.inputs`, and give the same ids. No image is opened here:
damaged images and masks of another size are found when they are decoded. Decisions that need the whole listing (the
wrapping folder, whether a source has masks) are applied in a second pass over a spool on the disk.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from overlay.config import Layout, Limits, MaskNames
from overlay.errors import ErrorKind, Reason, RequestError, one_line
from overlay.images.ref import ImageRef
from overlay.sources.class_layout import (
    LAYOUT,
    ClassLayout,
    check_case,
    recognise_file_splits,
    recognise_layout,
    recognise_splits,
)
from overlay.sources.conventions import MaskConventions
from overlay.sources.input_folder import list_images, unusable_table
from overlay.sources.input_table import holds_images, list_table
from overlay.sources.inputs import ListingRule, Portion, list_members
from overlay.sources.mask_pairing import ORPHAN_MASK, repeated_text
from overlay.sources.own_output import own_output
from overlay.sources.resolve import locate_source, name_places
from overlay.sources.spool import RefSpool
from overlay.storage.filenames import (
    describe_passed_over,
    escape_name,
    is_archive,
    is_image,
    is_table,
    kind_of_name,
    safe_name,
)
from overlay.storage.path import StoragePath

_ARCHIVES_AT_ONCE = 8  # decompression and requests to a bucket wait outside Python's lock


@dataclass(frozen=True)
class ListingOptions:
    """Options of a listing of labelled sources."""

    limits: Limits = field(default_factory=Limits)
    masks: MaskNames = field(default_factory=MaskNames)
    layout: Layout = field(default_factory=Layout)
    class_folders: bool = True
    """whether folders are labels; without, images may lie anywhere and come without a label"""
    roots: tuple[StoragePath, ...] = ()
    """see `overlay.sources.data_address`"""


@dataclass
class _Source:
    """One folder or archive, with counts of its listing."""

    place: StoragePath
    images: int = 0
    masks: int = 0
    passed_over: Counter[str] = field(default_factory=Counter)
    folders: set[str] = field(default_factory=set)
    """folders that hold images, relative to the place"""
    repeats: Counter[str] = field(default_factory=Counter)
    """see `overlay.sources.mask_pairing.Pairing`"""
    skipped: list[str] = field(default_factory=list)
    """folders that Overlay wrote, relative to the place"""
    labelled: bool = False
    """whether images have labels of their own, from a table or a WebDataset, in place of class folders"""
    splits: Mapping[str, str] = field(default_factory=dict)
    """archive or table of the same folder -> split, where their names say it"""
    unreadable: int = 0
    """number of archives and folders that could not be read"""
    problem: str | None = None
    """first reason why something in an archive can't be used"""

    def count(self, portion: Portion) -> None:
        self.passed_over.update(portion.passed_over)
        self.skipped += portion.skipped
        self.repeats.update(portion.repeats)
        self.masks += portion.masks
        for ref in portion.images:
            self.labelled = self.labelled or ref.label is not None
            if ref.reason is not None and ref.reason.kind is ErrorKind.UNREADABLE:
                self.unreadable += 1
                continue
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
    layouts: Sequence[ClassLayout] = ()
    """layout of each source"""

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

    @property
    def skipped(self) -> list[str]:
        """Folders that Overlay wrote, and which are no input."""
        return [folder for source in self.sources for folder in source.skipped]

    @property
    def layout(self) -> ClassLayout:
        """Layout of the first source; the others have the same splits or folds, or none as well."""
        return self.layouts[0]

    def read(self) -> Iterator[tuple[ImageRef, str]]:
        """Yield each image reference with its final id, label, split and source, and its path in the source.

        The path is that within the wrapping folder; ``split.group_by`` and ``split.column`` refer to it.
        """
        names = name_places([source.place for source in self.sources])
        befores = [f"{name}/" if len(self.sources) > 1 else "" for name in names]
        for number, refs in self.spool.read():
            layout, masked = self.layouts[number], self.sources[number].masks > 0
            for ref in refs:
                path = _path(ref).removeprefix(layout.wrapper)
                unusable = ref.spans is None and ref.member is not None and ref.reason is not None
                placed = layout.place("" if unusable and not (is_image(path) and safe_name(path) == path) else path)
                reason = ref.reason
                if reason is None and placed.label is None and layout.class_level is not None:
                    in_table = is_table(self.sources[number].place.name)
                    said = "row without a label" if in_table else "lies beside the class folders, so it has no label"
                    reason = Reason(said, ErrorKind.REFUSED)
                if reason is None and masked and not ref.masks:
                    reason = Reason("image without a mask, where others of its source have one", ErrorKind.REFUSED)
                found = ref._replace(label=placed.label, split=placed.split, source=names[number], reason=reason)
                yield found._replace(id=befores[number] + path), path


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
        """Check that there are two or more classes, and usable images of each.

        Raises:
            RequestError: there is only one class, two classes differ in case only, or a class has no usable image.
        """
        where = ", ".join(sources)
        found = {*self.usable, *self.reasons}
        listed = ", ".join(sorted(found))
        check_case(found, where)
        if len(found) == 1:
            raise RequestError(f"{where}: only one class, {listed}, and a classifier needs two or more; {LAYOUT}")
        if vanished := sorted(found - self.usable.keys()):
            reasons = "; ".join(sorted(self.reasons[vanished[0]]))
            raise RequestError(
                f"{where}: no image of class {vanished[0]} is left ({reasons}); give images without a lesion an "
                "all-black mask, or put them into a source of their own"
            )


def list_labelled(sources: Sequence[str], options: ListingOptions, folder: Path) -> LabelledListing:
    """List the sources of a dataset into a spool in ``folder``, a temporary folder.

    Raises:
        RequestError: a source does not exist, can't be read, is neither a folder nor an archive, is named twice, was
            written by Overlay, holds no image, or has a layout that is not recognised.
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
            _list_place(place, options, spool, listed)
        except OSError as error:
            raise RequestError(f"{place} can't be read: {one_line(error)}; check it and its permissions") from error
    for source in listed:
        if text := repeated_text(source.repeats, source.images):
            option = "masks.prefix" if text[-1] in "-_. " else "masks.suffix"
            raise RequestError(
                f"source {source.place}: {source.repeats[text]} of {source.images} images have the name of another "
                f"with {text!r} added; if these are masks, give {option} {text}; if they are images, give the suffix "
                "that masks have or would have, such as masks.suffix _mask"
            )
        unusable = source.problem is not None or source.unreadable > 0
        if not source.folders and (len(listed) == 1 or not unusable):
            raise RequestError(_empty(source))
    return LabelledListing(listed, spool, _layouts(listed, options))


def _layouts(sources: Sequence[_Source], options: ListingOptions) -> list[ClassLayout]:
    """Return the layout of each source.

    Raises:
        RequestError: a layout is not recognised, or some sources are divided into splits or folds and others not.
    """
    layouts = []
    for source in sources:
        try:
            if not options.class_folders:
                layouts.append(recognise_splits(source.folders))
            elif source.folders and not source.labelled:
                layouts.append(recognise_layout(source.folders, options.layout.class_level))
            else:
                layouts.append(ClassLayout())
            if source.splits:
                layouts[-1] = _divide(layouts[-1], source)
        except RequestError as error:
            raise RequestError(f"source {source.place} {error}") from error
    for source, layout in zip(sources, layouts, strict=True):
        if sorted(set(layout.splits.values())) != sorted(set(layouts[0].splits.values())):
            raise RequestError(
                f"source {sources[0].place} has {_division(layouts[0])}, and {source.place} has {_division(layout)}; "
                "give sources of the same splits together"
            )
    return layouts


def _divide(layout: ClassLayout, source: _Source) -> ClassLayout:
    """Return the layout of a file whose name is a split.

    Raises:
        RequestError: folders in it are splits too; the message lacks the source's name.
    """
    if layout.splits:
        raise RequestError(f"is a split by its name and has {_division(layout)}; name it as a source of its own")
    return replace(layout, splits=source.splits, split=source.splits[source.place.name])


def _division(layout: ClassLayout) -> str:
    return f"the folders {', '.join(sorted(layout.splits))}" if layout.splits else "no splits"


def _list_place(place: StoragePath, options: ListingOptions, spool: RefSpool, listed: list[_Source]) -> None:
    """List a folder or an archive; a folder with archives and without images is replaced by its archives."""
    rule = ListingRule("", options.limits, masks=MaskConventions.of(options.masks), roots=options.roots)
    archives = [place]
    splits: dict[str, str] = {}
    if place.is_folder():
        if kind := own_output(place.children()):
            raise RequestError(f"source {place} is {kind} that Overlay wrote; name the folder of the images")
        source = _Source(place)
        archives = []
        for portion, names in list_images(place, rule):
            used: list[str] = []
            for name in names:
                try:
                    used += [name] if is_archive(name) or holds_images(place / name) else []
                except RequestError as error:
                    portion.images.append(unusable_table(place, name, rule, error))
            archives += [place / name for name in used]
            source.count(portion)
            source.passed_over.update(kind_of_name(name) for name in names if name not in used)
            spool.add(len(listed), portion.images)
        if source.folders or not archives:
            source.passed_over.update(kind_of_name(archive.name) for archive in archives)
            listed.append(source)
            return
        try:
            splits = recognise_file_splits([archive.name for archive in archives])
        except RequestError as error:
            raise RequestError(f"source {place} {error}") from error
    with ThreadPoolExecutor(_ARCHIVES_AT_ONCE) as threads:
        for start in range(0, len(archives), _ARCHIVES_AT_ONCE):
            some = sorted(archives)[start : start + _ARCHIVES_AT_ONCE]
            for archive, portions in zip(
                some, threads.map(lambda each: _list_file(each, rule, named=each == place), some), strict=True
            ):
                source = _Source(archive, splits=splits)
                for portion in portions:
                    source.count(portion)
                    spool.add(len(listed), portion.images)
                listed.append(source)


def _list_file(place: StoragePath, rule: ListingRule, *, named: bool) -> Iterable[Portion]:
    """List an archive, or a table of images; see `list_table`."""
    return list(list_table(place, rule, named=named)) if is_table(place.name) else list_members(place, rule)


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
