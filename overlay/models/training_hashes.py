"""Perceptual hashes of the images that a model was trained and validated on: recognise them when it is evaluated.

They are stored in the model file, in binary; above 200,000 in a file beside it, which the card names by its SHA-256.
Hashes of constant images are left out, since all of these are alike.
"""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from overlay.duplicates.hamming import WORDS
from overlay.duplicates.multi_index import Hashes
from overlay.errors import RequestError
from overlay.storage.atomic import write_atomically
from overlay.storage.path import StoragePath

MOST_INSIDE = 200_000
"""most hashes that are stored in the model file itself, in 6 MB"""
UNSEEN, SEEN_IN_VALIDATION, SEEN_IN_TRAINING = 0, 1, 2
# Comparisons at one time, for 32 MB of memory.
_BLOCK = 2**22


@dataclass(frozen=True)
class HashRecord:
    """What a model's card says of its hashes."""

    train: int
    """hashes of training images"""
    val: int
    """hashes of validation images"""
    distance: int
    """largest Hamming distance of near-duplicates in the dataset, in bits of 256"""
    sha256: str
    """of all hashes, 32 bytes each, first those of the training images"""

    @property
    def inside(self) -> bool:
        """Whether they are in the model file itself, and not in a file beside it."""
        return self.train + self.val <= MOST_INSIDE


@dataclass(frozen=True, eq=False)
class TrainingHashes:
    """Distinct perceptual hashes of the training and validation images, without those of constant images."""

    train: Hashes
    """uint64 (n, 4)"""
    val: Hashes
    """uint64 (m, 4)"""
    distance: int
    """largest Hamming distance of near-duplicates, in bits"""

    @classmethod
    def create(cls, train: Hashes, val: Hashes, distance: int) -> "TrainingHashes":
        """Make a set of the hashes of all training and validation images."""
        kept = [np.unique(each[~is_constant(each)], axis=0) for each in (train, val)]
        return cls(kept[0], kept[1], distance)

    @property
    def record(self) -> HashRecord:
        """Entry of the model's card."""
        return HashRecord(len(self.train), len(self.val), self.distance, hashlib.sha256(self.to_bytes()).hexdigest())

    def to_bytes(self) -> bytes:
        """Return the hashes, 32 bytes each, big-endian, those of the training images first."""
        return self.to_array().tobytes()

    def to_array(self) -> NDArray[np.uint8]:
        """Return the bytes of `to_bytes` as an array."""
        return np.concatenate([self.train, self.val]).astype(">u8").view(np.uint8).ravel()

    def look_up(self, hashes: Hashes) -> NDArray[np.int8]:
        """Return UNSEEN, SEEN_IN_VALIDATION or SEEN_IN_TRAINING for each of (n, 4) hashes; training comes first.

        An image is seen where its hash is within the distance of one here; a constant image never is.
        """
        usable = ~is_constant(hashes)
        seen = np.zeros(len(hashes), np.int8)
        seen[usable & _any_within(hashes, self.val, self.distance)] = SEEN_IN_VALIDATION
        seen[usable & _any_within(hashes, self.train, self.distance)] = SEEN_IN_TRAINING
        return seen


def is_constant(hashes: Hashes) -> NDArray[np.bool_]:
    """Whether each of (n, 4) hashes is one that an image of a single colour has: no bit but that of the mean."""
    alike: NDArray[np.bool_] = np.bitwise_count(hashes).sum(axis=1, dtype=np.int64) <= 1
    return alike


def hashes_from_bytes(data: bytes, record: HashRecord, where: str) -> TrainingHashes:
    """Read the hashes that a card describes.

    Raises:
        RequestError: the bytes are not those that the card names by their SHA-256.
    """
    if hashlib.sha256(data).hexdigest() != record.sha256:
        raise RequestError(f"{where} is damaged: it holds other hashes than its model's card names; copy it again")
    words = np.frombuffer(data, ">u8").reshape(-1, WORDS).astype(np.uint64)
    return TrainingHashes(words[: record.train], words[record.train :], record.distance)


def hashes_file(model: StoragePath) -> StoragePath:
    """Return the path of the file of hashes beside a model file."""
    return model.parent / f"{model.name}.hashes"


def write_beside(model: StoragePath, hashes: TrainingHashes) -> None:
    """Write the file of hashes beside a model file, atomically."""
    with write_atomically(hashes_file(model)) as temporary:
        temporary.write_bytes(hashes.to_bytes())


def read_training_hashes(model: StoragePath, record: HashRecord | None, stored: bytes | None) -> TrainingHashes | None:
    """Return the hashes of a model file, ``stored`` in it or in the file beside it.

    None where its card has no record of them, or the file beside it is not there.

    Raises:
        RequestError: they are damaged.
    """
    if record is None:
        return None
    if record.inside:
        return hashes_from_bytes(stored or b"", record, str(model))
    beside = hashes_file(model)
    return hashes_from_bytes(beside.read_bytes(), record, str(beside)) if beside.is_file() else None


def _any_within(hashes: Hashes, known: Hashes, distance: int) -> NDArray[np.bool_]:
    """Whether any of ``known``, (m, 4), is within a distance in bits of each of (n, 4) hashes; O(n m), exact."""
    if not len(known) or not len(hashes):
        return np.zeros(len(hashes), np.bool_)
    rows = max(1, _BLOCK // len(known))
    columns = [np.ascontiguousarray(known[:, word]) for word in range(WORDS)]

    def compare(start: int) -> NDArray[np.bool_]:
        block = hashes[start : start + rows]
        apart = np.zeros((len(block), len(known)), np.uint16)
        for word in range(WORDS):
            apart += np.bitwise_count(block[:, word, None] ^ columns[word])
        return np.asarray((apart <= distance).any(axis=1))

    # NumPy releases the GIL while it counts bits.
    with ThreadPoolExecutor() as pool:
        return np.concatenate(list(pool.map(compare, range(0, len(hashes), rows))))
