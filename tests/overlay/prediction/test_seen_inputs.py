from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from overlay.config import Limits
from overlay.dataset.rows import hashes_of_hex
from overlay.evaluation.report_data import SeenImages
from overlay.images.hashing import perceptual_hash
from overlay.models.training_hashes import TrainingHashes
from overlay.prediction import seen_inputs
from overlay.prediction.seen_inputs import count_seen_inputs
from overlay.sources.decode import DecodeLimits
from overlay.sources.manifest import ManifestListing, write_manifest
from overlay.sources.resolve import resolve_inputs

CLASSES = ("benign", "malignant")


def picture(seed: int) -> np.ndarray:
    """Smooth noise, as large as an ultrasound image."""
    small = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (24, 24, 3), np.uint8))
    return np.asarray(small.resize((700, 500), Image.Resampling.BICUBIC))


def known(train: list[int], val: list[int]) -> TrainingHashes:
    parts = [hashes_of_hex([perceptual_hash(picture(seed)) for seed in seeds]) for seeds in (train, val)]
    return TrainingHashes.create(parts[0], parts[1], 40)


def listing_of(source: Path, tmp_path: Path) -> ManifestListing:
    (tmp_path / "listed").mkdir(exist_ok=True)
    inputs = resolve_inputs([str(source)], CLASSES, Limits())
    return write_manifest(inputs, tmp_path / "listed", 1000, lambda _: None, group_rows=2)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Ten JPEG files: 0 to 4 benign, 5 to 8 malignant, 9 without a label; 2 is damaged."""
    for seed in range(10):
        name = "" if seed == 9 else CLASSES[seed // 5]
        file = tmp_path / "images" / name / f"{seed}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(seed)).save(file, quality=90)
    (tmp_path / "images" / "benign" / "2.jpg").write_bytes(b"no picture")
    return tmp_path / "images"


def test_files_are_looked_at_where_they_have_a_label(images: Path, tmp_path: Path) -> None:
    listing = listing_of(images, tmp_path)
    found = count_seen_inputs(listing.manifest, listing.units, known([0, 2, 5, 9], [6]), DecodeLimits())
    assert found == SeenImages(8, train=2, val=1, distance=40)


def test_only_a_sample_of_many_is_looked_at(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seen_inputs, "MOST_LOOKED_AT", 5)
    listing = listing_of(images, tmp_path)
    assert count_seen_inputs(listing.manifest, listing.units, known([0], []), DecodeLimits()).images <= 6


@pytest.mark.parametrize("with_hashes", [True, False])
def test_a_table_is_asked_for_its_hashes(tmp_path: Path, with_hashes: bool) -> None:
    columns = {"id": ["a", "b", "c"], "image": [b"0", b"1", b"2"], "label": ["benign", "malignant", None]}
    if with_hashes:
        columns["phash"] = [perceptual_hash(picture(seed)) for seed in range(3)]
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    listing = listing_of(tmp_path / "t.parquet", tmp_path)
    found = count_seen_inputs(listing.manifest, listing.units, known([1, 2], [0]), DecodeLimits())
    assert found == (SeenImages(2, 1, 1, 40) if with_hashes else SeenImages(0, 0, 0, 40))
