"""Spool and external sort of image references on the disk, which bound the memory of a listing."""

import pickle
from collections.abc import Iterator
from pathlib import Path

from overlay.images.ref import ImageRef

_BUCKETS = 64
_BUFFERED = 256


class RefSpool:
    """Append-only file of lists of image references, each with an integer of the caller's."""

    def __init__(self, file: Path) -> None:
        self.grouped = False
        """whether any reference has a group"""
        self._path = file
        file.write_bytes(b"")

    def add(self, number: int, refs: list[ImageRef]) -> None:
        """Append a list of image references.

        Raises:
            OSError: the file can't be written.
        """
        self.grouped = self.grouped or any(ref.group is not None for ref in refs)
        with self._path.open("ab") as file:
            pickle.dump((number, refs), file, pickle.HIGHEST_PROTOCOL)

    def read(self) -> Iterator[tuple[int, list[ImageRef]]]:
        """Yield the lists with their integers in the order of `add`.

        Raises:
            OSError: the file can't be read.
        """
        with self._path.open("rb") as file:
            while file.peek(1):
                yield pickle.load(file)  # written by this process, so that unpickling is safe


class RefSorter:
    """External sort of image references by a digest: buckets by its first bits, each sorted in memory."""

    def __init__(self, folder: Path) -> None:
        self._paths = [folder / f"bucket-{number:02d}" for number in range(_BUCKETS)]
        self._waiting: list[list[tuple[bytes, ImageRef]]] = [[] for _ in range(_BUCKETS)]
        self._count = 0

    def add(self, digest: bytes, ref: ImageRef) -> None:
        """Add an image reference by its digest, whose first byte must be uniformly distributed.

        Raises:
            OSError: a bucket can't be written.
        """
        self._waiting[digest[0] * _BUCKETS // 256].append((digest, ref))
        self._count += 1
        if self._count >= _BUFFERED * _BUCKETS:
            self._flush()

    def read(self) -> Iterator[list[ImageRef]]:
        """Yield all image references in the order of their digests, one bucket at a time.

        Raises:
            OSError: a bucket can't be read.
        """
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
