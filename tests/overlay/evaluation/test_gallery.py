from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from overlay.dataset.prepared import PreparedDataset
from overlay.duplicates.near_duplicates import DUPLICATES_SCHEMA
from overlay.evaluation.gallery import MistakePair, read_gallery
from overlay.images.codec import encode_png
from overlay.models.model_file import ModelFile
from tests.overlay.evaluation.conftest import png

MASK = np.zeros((20, 20), bool)
MASK[:, 10:] = True


def gallery(model: ModelFile, dataset: PreparedDataset, rows: NDArray[np.int64]) -> tuple[MistakePair, ...]:
    predictions = pa.table(
        {
            "id": ["test0", "test1", "test2"],
            "true_label": ["benign", "normal", "benign"],
            "label": ["normal", "normal", "normal"],
            "confidence": [0.75, 0.5, 1.0],
        }
    )
    return read_gallery(model, dataset, predictions, rows)


@pytest.fixture
def dataset(new_dataset: Callable[..., PreparedDataset]) -> PreparedDataset:
    rows = [{"id": f"test{i}", "label": "benign", "split": "test", "bytes": png(10 * i)} for i in range(3)]
    rows[2] |= {"mask": encode_png(MASK)}
    rows[0] |= {"mask": encode_png(np.zeros((20, 20), bool))}
    return new_dataset(rows)


def test_mistakes_are_shown_as_the_model_saw_them_in_the_order_asked_for(
    random_resnet: ModelFile, dataset: PreparedDataset
) -> None:
    first, second = gallery(random_resnet, dataset, np.array([2, 0]))
    assert (first.id, first.label, first.predicted, first.confidence) == ("test2", "benign", "normal", 1.0)
    assert (first.seen == 20).all()
    assert first.seen.shape == (64, 64, 3)
    assert first.heat is not None
    assert first.heat.shape == (64, 64, 3)
    assert first.inside is not None
    assert 0 < first.inside < 1
    # The mask's outline, and none for an image without a lesion.
    assert (first.heat[1:-1, 32] == 255).all()
    assert (second.id, second.seen[0, 0, 0], second.inside, second.conflict) == ("test0", 0, None, None)
    assert gallery(random_resnet, dataset, np.array([], np.int64)) == ()


def test_a_near_duplicate_with_another_label_is_named(random_resnet: ModelFile, dataset: PreparedDataset) -> None:
    pairs = [
        ("other", "test2", 30, False, "malignant", "benign"),
        ("nearer", "test2", 3, False, "normal", "benign"),
        ("test0", "test1", 0, True, "benign", "benign"),
        ("a", "b", 0, True, "benign", "normal"),
    ]
    table = pa.Table.from_pylist([dict(zip(DUPLICATES_SCHEMA.names, pair, strict=True)) for pair in pairs])
    pq.write_table(table, Path(dataset.path) / "duplicates.parquet")
    found = gallery(random_resnet, dataset, np.array([0, 2]))
    assert [pair.conflict for pair in found] == [None, "normal"]


def test_an_image_above_the_usual_limit_is_shown(
    random_resnet: ModelFile, new_dataset: Callable[..., PreparedDataset]
) -> None:
    """An image of 51.84 million pixels, of a dataset that was prepared with a limit of 52 million."""
    large = {"id": "test2", "label": "benign", "split": "test", "bytes": png(1, side=7200, mode="1")}
    (pair,) = gallery(random_resnet, new_dataset([large], max_pixels=52_000_000), np.array([2]))
    assert (pair.seen == 255).all()


def test_the_models_own_resize_rule_places_the_mask(random_resnet: ModelFile, dataset: PreparedDataset) -> None:
    crop = replace(random_resnet, card=replace(random_resnet.card, resize="crop"))
    (pair,) = gallery(crop, dataset, np.array([2]))
    assert pair.heat is not None
    # The middle of the image stays the middle of the crop.
    assert (pair.heat[1:-1, 32] == 255).all()
