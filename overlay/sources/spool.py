"""Spool and external sort of image references on the disk, so that a listing of any length needs little memory."""

import pickle
from collections.abc import Iterator
from pathlib import Path

from overlay.images.ref import ImageRef

_BUCKETS = 64
_BUFFERED = 256


class RefSpool:
    """References in the order in which they were added, each list of them with a number of the caller's."""

    def __init__(self, file: Path) -> None:
        self._path = file
        file.touch()

    def add(self, number: int, refs: list[ImageRef]) -> None:
        """Append references."""
        with self._path.open("ab") as file:
            pickle.dump((number, refs), file, pickle.HIGHEST_PROTOCOL)

    def read(self) -> Iterator[tuple[int, list[ImageRef]]]:
        """Yield what was added, and remove the file."""
        with self._path.open("rb") as file:
            while file.peek(1):
                yield pickle.load(file)  # a file of this process's own
        self._path.unlink()


class RefSorter:
    """External sort of references by a digest: bucket by its first bits, then sort each bucket in memory."""

    def __init__(self, folder: Path) -> None:
        self._paths = [folder / f"bucket-{number:02d}" for number in range(_BUCKETS)]
        self._waiting: list[list[tuple[bytes, ImageRef]]] = [[] for _ in range(_BUCKETS)]
        self._count = 0

    def add(self, digest: bytes, ref: ImageRef) -> None:
        """Add a reference by its digest, whose first byte is evenly distributed."""
        self._waiting[digest[0] * _BUCKETS // 256].append((digest, ref))
        self._count += 1
        if self._count >= _BUFFERED * _BUCKETS:
            self._flush()

    def read(self) -> Iterator[list[ImageRef]]:
        """Yield all references in the order of their digests, a bucket at a time."""
        self._flush()
        for path in self._paths:
            found: list[tuple[bytes, ImageRef]] = []
            if path.exists():
                with path.open("rb") as file:
                    while file.peek(1):
                        found += pickle.load(file)
                path.unlink()
            found.sort(key=lambda each: each[0])
            if found:
                yield [ref for _, ref in found]

    def _flush(self) -> None:
        for path, waiting in zip(self._paths, self._waiting, strict=True):
            if waiting:
                with path.open("ab") as file:
                    pickle.dump(waiting, file, pickle.HIGHEST_PROTOCOL)
                waiting.clear()
        self._count = 0
