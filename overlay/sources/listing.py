"""What lies in a folder, in a bucket, or in an archive: the names of images and masks, and what can't be used."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from overlay.archives.entries import Span
from overlay.archives.index import list_archive
from overlay.config import Limits
from overlay.errors import RequestError, one_line
from overlay.storage.filenames import file_stem, is_archive, is_image
from overlay.storage.path import StoragePath

_THREADS = 8  # decompression and requests to a bucket wait outside Python's lock


@dataclass(frozen=True)
class Holding:
    """What one folder or one archive holds."""

    place: StoragePath
    names: list[str]
    """relative names, with slashes, of images and masks"""
    spans: Mapping[str, Span] | None = None
    """where each of them lies in the archive; None for a folder"""
    troubles: Sequence[tuple[str | None, str]] = ()
    """(name, reason) of what can't be used in an archive; the name is None for the archive as a whole"""
    labels: Mapping[str, str] = field(default_factory=dict)
    """WebDataset: key -> what its .cls says, or else its .json"""
    passed_over: int = 0
    """files that are no images by their names"""

    def uri(self, name: str) -> str:
        """Return the file that holds an image or a mask."""
        return str(self.place if self.spans is not None else self.place / name)

    def spans_of(self, names: Sequence[str]) -> tuple[Span, ...] | None:
        """Return where some members lie; None for a folder."""
        return None if self.spans is None else tuple(self.spans[name] for name in names)


def locate_source(given: str, what: str) -> StoragePath:
    """Return the place that a user named, with links resolved.

    Raises:
        RequestError: there is nothing, or it can't be reached.
    """
    place = StoragePath.of(given) if "://" in given else StoragePath(str(Path(given).expanduser().resolve()))
    try:
        if not place.exists():
            raise RequestError(f"{what} {given} is not there; check the path")
    except OSError as error:
        raise RequestError(
            f"{what} {given} can't be reached: {one_line(error)}; check the address, the credentials and the network"
        ) from error
    return place


def list_source(place: StoragePath, limits: Limits) -> list[Holding]:
    """List a folder, or an archive. A folder that holds archives and no image stands for its archives.

    Raises:
        RequestError: it can't be read.
    """
    try:
        if not place.is_folder():
            return [in_archive(place, limits)]
        files = place.files()
        usable = [name for name in files if is_image(name)]
        archives = sorted(name for name in files if is_archive(name))
        if usable or not archives:
            return [Holding(place, usable, passed_over=len(files) - len(usable))]
        with ThreadPoolExecutor(_THREADS) as threads:
            return list(threads.map(lambda name: in_archive(place / name, limits), archives))
    except OSError as error:
        raise RequestError(f"{place} can't be read: {one_line(error)}; check it and its permissions") from error


def name_places(places: Sequence[StoragePath]) -> list[str]:
    """Name each place by its folder or archive; equal names are numbered in the order in which they were given."""
    names: list[str] = []
    for place in places:
        first = name = file_stem(place.name)
        number = 2
        while name in names:
            name, number = f"{first}-{number}", number + 1
        names.append(name)
    return names


def in_archive(place: StoragePath, limits: Limits) -> Holding:
    """List an archive.

    Raises:
        OSError: the file can't be read.
    """
    found = list_archive(place, limits)
    return Holding(place, list(found.members), found.members, found.troubles, found.labels, found.passed_over)
