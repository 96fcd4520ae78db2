from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from overlay.dataset.prepared import PreparedDataset
from overlay.errors import ImageError
from overlay.evaluation import dataset_images
from overlay.evaluation.subject import EvaluationSubject
from tests.overlay.evaluation.conftest import png


def test_images_are_found_by_their_ids(small_dataset: PreparedDataset) -> None:
    assert dataset_images.read_encoded(small_dataset, ["test2", "train3", "none"]) == {
        "test2": png(20),
        "train3": png(30),
    }
    assert dataset_images.read_encoded(small_dataset, []) == {}


def test_calibration_takes_training_images_from_all_over_the_dataset(
    subject: EvaluationSubject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset_images, "CALIBRATION_IMAGES", 4)
    pixels = dataset_images.read_calibration_pixels(subject.dataset, subject.model.card)
    assert pixels.shape == (4, 64, 64, 3)
    assert pixels.dtype == np.uint8
    assert pixels[:, 0, 0, 0].tolist() == [0, 30, 60, 90]  # each third of ten
    monkeypatch.undo()
    assert len(dataset_images.read_calibration_pixels(subject.dataset, subject.model.card)) == 10


def test_calibration_decodes_with_the_limit_of_the_dataset(
    new_dataset: Callable[..., PreparedDataset], subject: EvaluationSubject
) -> None:
    card = subject.dataset.card
    narrow = replace(subject.dataset, card=replace(card, request=replace(card.request, max_pixels=399)))
    with pytest.raises(ImageError, match="20 x 20, more than 399"):
        dataset_images.read_calibration_pixels(narrow, subject.model.card)
