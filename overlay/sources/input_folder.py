"""Folders as inputs: images, and archives and tables of images in them."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from overlay.errors import ErrorKind, Reason, RequestError, one_line
from overlay.images.ref import ImageRef
from overlay.sources.dicom_frames import is_unnamed_dicom
from overlay.sources.input_table import holds_images, list_table
from overlay.sources.inputs import ListingRule, Portion, list_members, list_walked_files
from overlay.sources.own_output import is_own_output
from overlay.storage.filenames import FOLDERS, escape_name, is_archive, is_image, is_table, kind_of_name
from overlay.storage.path import StoragePath
from overlay.storage.walk import WalkRule, walk_folder

_ARCHIVES_AT_ONCE = 8  # decompression and requests to a bucket wait outside Python's lock


def list_images(place: StoragePath, rule: ListingRule) -> Iterator[tuple[Portion, list[str]]]:
    """List the images of a folder recursively; yields each portion with the names of archives and tables.

    Folders that Overlay wrote are not entered.

    Raises:
        OSError: the folder can't be read.
    """
    for folder in walk_folder(place, WalkRule(rule.masks.group, is_own_output)):
        images: list[str] = []
        others: list[str] = []
        for name in folder.names:
            known = is_image(name) or (name not in folder.irregular and is_unnamed_dicom(place / name))
            (images if known else others).append(name)
        useful = [name for name in others if (is_archive(name) or is_table(name)) and name not in folder.irregular]
        passed_over = Counter(kind_of_name(name) for name in others if name not in useful)
        passed_over.update({FOLDERS: folder.left_out} if folder.left_out else {})
        unread = [_unreadable_folder(name, said, place, rule) for name, said in sorted(folder.unreadable.items())]
        if useful or passed_over or folder.skipped or unread:
            yield Portion(unread, passed_over=passed_over, skipped=folder.skipped), useful
        for portion in list_walked_files(replace(folder, names=images), place, rule):
            yield portion, []


def _unreadable_folder(name: str, said: str, place: StoragePath, rule: ListingRule) -> ImageRef:
    reason = Reason(said, ErrorKind.UNREADABLE)
    return ImageRef(escape_name(rule.prefix + name), escape_name(str(place / name)), source=rule.source, reason=reason)


def list_folder(place: StoragePath, rule: ListingRule) -> Iterator[Portion]:
    """List a folder recursively; an archive or a table of images in it is listed as if it were a folder.

    A table of paths is skipped: most likely it describes the images beside it. A table that can't be read may hold
    images, and becomes an input with a reason.

    Raises:
        OSError: the folder can't be read.
    """
    archives: list[str] = []
    tables: list[str] = []
    for portion, others in list_images(place, rule):
        archives += filter(is_archive, others)
        tables += filter(is_table, others)
        yield portion
    with ThreadPoolExecutor(_ARCHIVES_AT_ONCE) as threads:
        for start in range(0, len(archives), _ARCHIVES_AT_ONCE):
            names = archives[start : start + _ARCHIVES_AT_ONCE]
            rules = map(rule.below, names)
            for listed in threads.map(list_members, [place / name for name in names], rules):
                yield from listed
    for name in tables:
        try:
            if holds_images(place / name):
                yield from list_table(place / name, rule.below(name), named=False)
            else:
                yield Portion([], passed_over={kind_of_name(name): 1})
        except RequestError as error:
            yield Portion([unusable_table(place, name, rule, error)])


def unusable_table(place: StoragePath, name: str, rule: ListingRule, error: RequestError) -> ImageRef:
    """Return the input with a reason for a table of a folder, which may hold images."""
    kind = ErrorKind.UNREADABLE if isinstance(error.__cause__, PermissionError) else ErrorKind.DAMAGED
    reason = Reason(one_line(error), kind)
    return ImageRef(escape_name(rule.prefix + name), escape_name(str(place / name)), source=rule.source, reason=reason)
