from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overlay.duplicates.multi_index import Hashes
from overlay.errors import RequestError
from overlay.images.hashing import perceptual_hash
from overlay.models import training_hashes
from overlay.models.training_hashes import (
    SEEN_IN_TRAINING,
    SEEN_IN_VALIDATION,
    UNSEEN,
    TrainingHashes,
    hashes_from_bytes,
    is_constant,
    read_training_hashes,
    write_beside,
)
from overlay.storage.path import StoragePath


def random_hashes(n: int, seed: int = 0) -> Hashes:
    return np.random.default_rng(seed).integers(0, 2**64, (n, 4), np.uint64)


def flipped(hashes: Hashes, bits: int) -> Hashes:
    """The hashes with so many bits flipped, from the first on."""
    mask = (1 << 256) - (1 << (256 - bits))
    words = [(mask >> shift) & (2**64 - 1) for shift in (192, 128, 64, 0)]
    return hashes ^ np.array(words, np.uint64)


def test_an_image_is_looked_up_within_the_distance() -> None:
    train, val = random_hashes(50), random_hashes(20, seed=1)
    known = TrainingHashes.create(train, val, 40)
    asked = np.concatenate([train[:3], flipped(train[3:5], 40), flipped(train[5:7], 41), val[:2], random_hashes(4, 2)])
    expected = [SEEN_IN_TRAINING] * 5 + [UNSEEN] * 2 + [SEEN_IN_VALIDATION] * 2 + [UNSEEN] * 4
    assert known.look_up(asked).tolist() == expected


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 64), st.integers(1, 64))
def test_the_search_in_blocks_is_that_of_all_pairs(n: int, m: int, distance: int, block: int) -> None:
    asked, known = random_hashes(n), random_hashes(m, seed=1)
    known[: min(n, m) : 2] = flipped(asked[: min(n, m) : 2], 33)
    apart = np.bitwise_count(asked[:, None] ^ known[None]).sum(axis=2)
    expected = (apart <= distance).any(axis=1) if m else np.zeros(n, bool)
    before, training_hashes._BLOCK = training_hashes._BLOCK, block
    try:
        np.testing.assert_array_equal(training_hashes._any_within(asked, known, distance), expected)
    finally:
        training_hashes._BLOCK = before


@pytest.mark.parametrize("grey", [0, 1, 77, 255])
def test_the_hash_of_an_image_of_one_colour_is_left_out(grey: int) -> None:
    text = perceptual_hash(np.full((300, 200, 3), grey, np.uint8))
    constant = np.array([[int(text[i : i + 16], 16) for i in range(0, 64, 16)]], np.uint64)
    noise = perceptual_hash(np.random.default_rng(0).integers(0, 256, (300, 200, 3), np.uint8))
    assert is_constant(constant).tolist() == [True]
    assert is_constant(np.array([[int(noise[i : i + 16], 16) for i in range(0, 64, 16)]], np.uint64)).tolist() == [
        False
    ]
    known = TrainingHashes.create(np.concatenate([constant, random_hashes(3)]), constant, 40)
    assert (known.record.train, known.record.val) == (3, 0)
    assert known.look_up(constant).tolist() == [UNSEEN]


def test_hashes_are_read_back_and_equal_ones_are_kept_once() -> None:
    known = TrainingHashes.create(np.concatenate([random_hashes(5), random_hashes(5)]), random_hashes(2, seed=1), 40)
    record = known.record
    assert (record.train, record.val, record.distance, record.inside) == (5, 2, 40, True)
    assert len(known.to_bytes()) == 7 * 32
    again = hashes_from_bytes(known.to_bytes(), record, "m.pth")
    np.testing.assert_array_equal(again.train, known.train)
    np.testing.assert_array_equal(again.val, known.val)
    with pytest.raises(RequestError, match=r"^m\.pth is damaged: it holds other hashes than its model's card names"):
        hashes_from_bytes(known.to_bytes()[:-1] + b"\0", record, "m.pth")


def test_many_hashes_lie_beside_the_model_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_hashes, "MOST_INSIDE", 6)
    known = TrainingHashes.create(random_hashes(5), random_hashes(2, seed=1), 40)
    model = StoragePath.of(tmp_path / "m.pth")
    assert not known.record.inside
    assert read_training_hashes(model, known.record, None) is None
    write_beside(model, known)
    assert (tmp_path / "m.pth.hashes").stat().st_size == 7 * 32
    found = read_training_hashes(model, known.record, None)
    assert found is not None
    np.testing.assert_array_equal(found.val, known.val)
    assert read_training_hashes(model, None, None) is None
