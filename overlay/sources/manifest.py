"""Manifest: all inputs of a job as Parquet, written before any image is read.

The manifest of a prediction has files ``part-000000.parquet`` and so on, with as many rows as the parts of the output,
in the order of reading, so that a part of the input has the rows of the same part of the output. The manifest of a
dataset is one file. Some rows that follow each other, a group, are read and decoded together. Inputs are written while
they are listed; memory holds the first row of each group only.

A row group of the files has many groups: with one row group each, a file's footer would be as large as all else, and
whoever reads a group reads the footer.
"""

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from overlay.errors import ErrorKind
from overlay.images.ref import MANIFEST_SCHEMA, ImageRef, ref_from_row, refs_table
from overlay.sources.inputs import Portion
from overlay.sources.parquet_images import GROUP_ROWS
from overlay.sources.read_plan import ReadUnit, cut_groups
from overlay.sources.read_units import ReadUnits
from overlay.storage.atomic import write_atomically
from overlay.storage.parquet import open_parquet, read_row_range
from overlay.storage.path import StoragePath
from overlay.storage.transfer import local_copy

_PART_ROW_GROUP = 2048
_FILE_ROW_GROUP = 16_384
"""rows of a row group, at least: a task that reads a group of 32 to 256 reads one row group and the footer"""
_IDENTITY = ["id", "uri", "member", "masks", "size", "version"]


@dataclass(frozen=True, eq=False)
class Manifest:
    """Manifest on a disk or in a bucket, with its index of groups; small, so that each task can have it."""

    place: StoragePath
    """folder of the parts; the single file where ``part_rows`` is None"""
    part_rows: int | None
    """rows of each part except the last"""
    starts: NDArray[np.int64]
    """(groups + 1,) first row of each group, and then the number of rows"""

    @property
    def rows(self) -> int:
        """Number of inputs."""
        return int(self.starts[-1])

    @property
    def parts(self) -> int:
        """Number of parts."""
        return 1 if self.part_rows is None else -(-self.rows // self.part_rows)

    def part_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the part of each row, (n,)."""
        return np.zeros_like(rows) if self.part_rows is None else rows // self.part_rows

    def rows_of_part(self, part: int) -> range:
        """Return the rows of a part."""
        if self.part_rows is None:
            return range(self.rows)
        return range(part * self.part_rows, min((part + 1) * self.part_rows, self.rows))

    def rows_of_group(self, group: int) -> range:
        """Return the rows of a group."""
        return range(int(self.starts[group]), int(self.starts[group + 1]))

    @property
    def groups(self) -> int:
        """Number of groups."""
        return len(self.starts) - 1

    def read_group(self, group: int, columns: Sequence[str] | None = None) -> list[ImageRef]:
        """Read the rows of a group; fields that are not in ``columns`` are None.

        Raises:
            OSError: the manifest's file can't be read.
        """
        part = 0 if self.part_rows is None else int(self.starts[group]) // self.part_rows
        first = part * (self.part_rows or 0)
        rows = self.rows_of_group(group)
        with open_parquet(self.file(part)) as file:
            table = read_row_range(file, range(rows.start - first, rows.stop - first), columns)
        return [ref_from_row(row) for row in table.to_pylist()]

    def iterate_groups(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Yield the rows of each group as a table, in order; memory holds one row group.

        Raises:
            OSError: the manifest's file can't be read.
        """
        group = row = 0
        for part in range(self.parts):
            with open_parquet(self.file(part)) as file:
                for number in range(file.num_row_groups):
                    table = file.read_row_group(number, columns=columns)
                    first, row = row, row + len(table)
                    while group < self.groups and self.starts[group + 1] <= row:
                        yield table.slice(self.starts[group] - first, len(self.rows_of_group(group)))
                        group += 1

    def read_part(self, part: int, columns: Sequence[str] | None = None) -> pa.Table:
        """Read the rows of a part as a table.

        Raises:
            OSError: the manifest's file can't be read.
        """
        with open_parquet(self.file(part)) as file:
            return file.read(columns=columns)

    def file(self, part: int) -> StoragePath:
        """Return the path of a part."""
        return self.place if self.part_rows is None else self.place / part_name(part)


@dataclass(frozen=True, eq=False)
class ManifestListing:
    """Manifest that was just written, with its read units, fingerprint and counts."""

    manifest: Manifest
    units: ReadUnits
    fingerprint: str
    """SHA-256 of the rows' ids, paths, masks, sizes and versions"""
    passed_over: Mapping[str, int]
    """kind -> number of files that are not images by their names, and of folders that are not entered"""
    without_overlay: int
    """number of images without an overlay"""
    skipped: tuple[str, ...] = ()
    """folders that Overlay wrote, which are not entered"""
    repeats: Mapping[str, int] = field(default_factory=dict)
    """see `overlay.sources.mask_pairing.Pairing`"""
    unreadable: int = 0
    """number of inputs that could not be read while they were listed, such as archives and folders"""


@dataclass
class _Writer:
    """Writer of groups into the parts of a manifest; no group is in two row groups."""

    place: Path
    part_rows: int | None
    starts: list[int] = field(default_factory=lambda: [0])
    _file: pq.ParquetWriter | None = None
    _rows: list[ImageRef] = field(default_factory=list)
    """rows of the row group that is not written yet"""

    def write(self, images: Sequence[ImageRef]) -> range:
        """Write a group, and return its number; a group that crosses the end of a part becomes two."""
        first = len(self.starts) - 1
        while images:
            row = self.starts[-1]
            here = images if self.part_rows is None else images[: self.part_rows - row % self.part_rows]
            images = images[len(here) :]
            if self._file is None:
                file = self.place if self.part_rows is None else self.place / part_name(row // self.part_rows)
                # Ids and paths are too different to gain from dictionaries and statistics.
                self._file = pq.ParquetWriter(file, MANIFEST_SCHEMA, use_dictionary=False, write_statistics=False)
            self._rows += here
            self.starts.append(row + len(here))
            if self.part_rows is not None and self.starts[-1] % self.part_rows == 0:
                self.close()
            elif len(self._rows) >= (_FILE_ROW_GROUP if self.part_rows is None else _PART_ROW_GROUP):
                self._flush()
        return range(first, len(self.starts) - 1)

    def close(self) -> None:
        if self._file is not None:
            self._flush()
            self._file.close()
            self._file = None

    def _flush(self) -> None:
        if self._file is not None and self._rows:
            self._file.write_table(refs_table(self._rows))
            self._rows = []


def write_manifest(
    portions: Iterable[Portion],
    place: Path,
    part_rows: int | None,
    on_progress: Callable[[int], None],
    group_rows: int = GROUP_ROWS,
) -> ManifestListing:
    """Write portions of a listing to a manifest, in groups of at most ``group_rows`` rows.

    ``place`` is the folder of the parts, or the file where ``part_rows`` is None. ``on_progress`` is called with the
    number of inputs so far after each portion.

    Raises:
        OSError: the manifest can't be written.
    """
    writer = _Writer(place, part_rows)
    units = ReadUnits()
    digest = hashlib.sha256()
    waiting: list[ImageRef] = []
    passed_over, without_overlay, unreadable = Counter[str](), 0, 0
    skipped: list[str] = []
    repeats = Counter[str]()

    def write_waiting(least: int) -> None:
        nonlocal waiting
        while len(waiting) >= least:
            some, waiting = waiting[:group_rows], waiting[group_rows:]
            for group in writer.write(some):
                units.append(ReadUnit((group,), False, largest=_largest(some)))

    for portion in portions:
        passed_over.update(portion.passed_over)
        skipped += portion.skipped
        repeats.update(portion.repeats)
        for image in portion.images:
            digest.update(json.dumps([*image[:4], image.size, image.version]).encode())
            without_overlay += not image.drawn and image.reason is None
            unreadable += image.reason is not None and image.reason.kind is ErrorKind.UNREADABLE
        if portion.in_order:
            groups = cut_groups(portion.images, min(group_rows, portion.group_rows))
            numbers = tuple(number for group in groups for number in writer.write(group))
            units.append(ReadUnit(numbers, in_order=True, largest=_largest(portion.images)))
        else:
            waiting += portion.images
            write_waiting(group_rows)
        on_progress(writer.starts[-1] + len(waiting))
    write_waiting(1)
    writer.close()
    manifest = Manifest(StoragePath.of(place), part_rows, np.array(writer.starts))
    return ManifestListing(
        manifest, units, digest.hexdigest(), passed_over, without_overlay, tuple(skipped), repeats, unreadable
    )


def _largest(images: Sequence[ImageRef]) -> int:
    """Return the size in bytes of the largest image that will be read."""
    return max((image.size or 0 for image in images if image.reason is None), default=0)


def publish_manifest(manifest: Manifest, folder: StoragePath, *, replace: bool) -> Manifest:
    """Copy a manifest of parts to its final folder, each file atomically, and return the copy.

    Without ``replace``, existing files are kept: they are known to be equal.

    Raises:
        OSError: a file can't be read or written.
    """
    folder.make_folder()
    there = set() if replace else set(folder.children())
    for part in range(manifest.parts):
        if part_name(part) not in there:
            _copy(manifest.file(part), folder / part_name(part))
    return Manifest(folder, manifest.part_rows, manifest.starts)


def publish_file(manifest: Manifest, place: StoragePath) -> Manifest:
    """Copy a manifest of one file atomically to its final path, and return the copy.

    Raises:
        OSError: the file can't be read or written.
    """
    _copy(manifest.place, place)
    return Manifest(place, None, manifest.starts)


def _copy(source: StoragePath, target: StoragePath) -> None:
    """Copy a file atomically, in blocks: the process would keep the memory of a whole manifest."""
    with local_copy(source) as file, write_atomically(target) as temporary:
        shutil.copyfile(file, temporary)


def first_difference(manifest: Manifest, other: StoragePath, *, appeared: bool = False) -> str | None:
    """Return the first difference between a manifest and an earlier, published one as text; None where they are equal.

    ``appeared``: a file that was missing in the earlier one may exist now.

    Raises:
        OSError: a file can't be read.
    """
    if manifest.parts != sum(name.startswith("part-") for name in other.children()):
        return "more or fewer files"
    for part in range(manifest.parts):
        rows, others = manifest.read_part(part, _IDENTITY), open_parquet(other / part_name(part)).read(_IDENTITY)
        if rows == others:
            continue
        for mine, theirs in zip(rows.to_pylist(), others.to_pylist(), strict=False):
            if mine["id"] != theirs["id"]:
                return f"{mine['id']} stands where {theirs['id']} stood"
            if appeared and theirs["size"] is None:
                theirs |= {"size": mine["size"], "version": mine["version"]}
            if mine != theirs:
                return f"{mine['id']} has changed"
        if len(rows) != len(others):
            return "more or fewer files"
    return None


def part_name(part: int) -> str:
    """Return the file name of a part of the manifest, and of the output's part with the same rows."""
    return f"part-{part:06d}.parquet"
