from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from overlay.config import Split
from overlay.dataset.prepared import PreparedDataset
from overlay.errors import RequestError
from overlay.evaluation import report_data
from overlay.evaluation.report import Mistake
from overlay.evaluation.report_data import EvaluationSubject
from tests.overlay.evaluation.conftest import png


def test_a_model_is_evaluated_on_its_own_classes_only(subject: EvaluationSubject) -> None:
    card = replace(subject.model.card, classes=("normal", "benign"))
    with pytest.raises(RequestError, match=r"knows the classes normal, benign, and .*dataset has benign, normal; eval"):
        replace(subject, model=replace(subject.model, card=card))


def test_protocol(subject: EvaluationSubject) -> None:
    protocol = report_data.create_protocol(subject)
    assert (protocol.model_file, protocol.model_sha256, protocol.arch) == ("m.pth", "ab" * 32, "resnet18")
    assert (protocol.image_size, protocol.resize, protocol.dataset) == (32, "squash", "dataset")
    assert (protocol.fingerprint, protocol.split) == ("cd" * 32, "test")
    assert protocol.split_rule == "at random, near-duplicates kept together"
    assert protocol.split_images == {"train": 7, "val": 2, "test": 2}
    assert protocol.overlay == "fill, #ff3b30, opacity 0.35"
    assert list(protocol.versions) == ["overlay", "torch", "torchvision", "ray"]


@pytest.mark.parametrize(
    ("split", "rule"),
    [
        (Split(folds=5), "at random in 5 folds, near-duplicates kept together"),
        (Split(group_by="p[0-9]+"), "at random, near-duplicates, and groups (p[0-9]+), kept together"),
        (Split(column="t.csv:split"), "as given (t.csv:split)"),
    ],
)
def test_split_rule(subject: EvaluationSubject, split: Split, rule: str) -> None:
    card = subject.dataset.card
    dataset = replace(subject.dataset, card=replace(card, request=replace(card.request, split=split)))
    assert report_data.create_protocol(replace(subject, dataset=dataset)).split_rule == rule


def test_mask_only_baseline_of_masks_that_tell_the_classes_apart(small_dataset: PreparedDataset) -> None:
    found = report_data.measure_mask_only(small_dataset, "test")
    assert found is not None
    assert (found.accuracy, found.macro_f1) == (1.0, 1.0)
    assert found.numbers == ("share of the image", "height / width", "fill of its box", "perimeter² / area")
    assert report_data.measure_mask_only(small_dataset, "train") is None


def test_no_mask_only_baseline_without_masks(new_dataset: Callable[..., PreparedDataset]) -> None:
    rows = [{"id": str(i), "label": "benign", "split": "test", "bytes": png(0)} for i in range(2)]
    assert report_data.measure_mask_only(new_dataset(rows), "test") is None


def mistakes_of(dataset: PreparedDataset) -> tuple[Mistake, ...]:
    predictions = pa.table(
        {
            "id": ["test0", "test1", "test2"],
            "true_label": ["benign", "normal", "benign"],
            "label": ["normal", "normal", "normal"],
            "confidence": [0.75, 0.5, 1.0],
        }
    )
    return report_data.read_mistakes(dataset, predictions, np.array([2, 0]))


def test_mistakes_have_their_images_in_the_order_that_was_asked_for(small_dataset: PreparedDataset) -> None:
    first, second = mistakes_of(small_dataset)
    assert (first.id, first.label, first.predicted, first.confidence) == ("test2", "benign", "normal", 1.0)
    np.testing.assert_array_equal(first.image, np.full((20, 20, 3), 20))
    assert (second.id, second.confidence, second.image[0, 0, 0]) == ("test0", 0.75, 0)


def test_mistakes_above_the_usual_limit_are_shown(new_dataset: Callable[..., PreparedDataset]) -> None:
    """An image of 51.84 million pixels, of a dataset that was prepared with a limit of 52 million."""
    rows = [{"id": f"test{i}", "label": "benign", "split": "test", "bytes": png(0)} for i in (0, 1)]
    large = {"id": "test2", "label": "benign", "split": "test", "bytes": png(0, side=7200, mode="1")}
    first, _ = mistakes_of(new_dataset([*rows, large], max_pixels=52_000_000))
    assert first.image.shape == (7200, 7200, 3)
