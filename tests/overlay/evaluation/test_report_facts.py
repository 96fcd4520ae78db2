from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from overlay.config import Split
from overlay.dataset.prepared import PreparedDataset
from overlay.evaluation.outcome import ScoredLabels
from overlay.evaluation.report_data import DatasetFlow, Inference, Mistake
from overlay.evaluation.report_facts import compare_with_masks, create_protocol, read_mistakes
from overlay.evaluation.subject import EvaluationSubject
from tests.overlay.evaluation.conftest import png

TORCH = Inference("torch on cpu", "fp32", flips=False)


def test_protocol(subject: EvaluationSubject, tmp_path: Path) -> None:
    protocol = create_protocol(subject, TORCH)
    assert (protocol.model_file, protocol.model_sha256, protocol.arch) == ("m.pth", "ab" * 32, "resnet18")
    assert (protocol.image_size, protocol.resize, protocol.dataset) == (32, "squash", "dataset")
    assert (protocol.fingerprint, protocol.split, protocol.fold, protocol.folds) == ("cd" * 32, "test", None, None)
    assert protocol.split_rule == "at random, near-duplicates kept together"
    assert protocol.split_images == {"train": 7, "val": 2, "test": 2}
    assert protocol.flow == DatasetFlow(13, 2, 0, 4, 9, subject.dataset.card.counts)
    assert (protocol.overlay, protocol.model_overlay) == ("fill, #ff3b30, opacity 0.35", "unknown")
    assert list(protocol.versions) == ["overlay", "torch", "torchvision", "ray"]
    assert (protocol.inference, protocol.configuration) == (TORCH, "")
    (tmp_path / "config.yaml").write_text("train: {epochs: 3}\n")
    in_a_run = replace(subject, model=replace(subject.model, path=str(tmp_path / "m.pth")))
    assert create_protocol(in_a_run, TORCH).configuration == "train: {epochs: 3}\n"


@pytest.mark.parametrize(
    ("split", "rule"),
    [
        (Split(folds=5), "at random in 5 folds, near-duplicates kept together"),
        (Split(group_by="p[0-9]+"), "at random, near-duplicates, and groups (p[0-9]+), kept together"),
        (Split(column="t.csv:split"), "as given (t.csv:split)"),
        (Split(only="test"), "not at all: every image is in test (split.only)"),
    ],
)
def test_split_rule(subject: EvaluationSubject, split: Split, rule: str) -> None:
    card = subject.dataset.card
    dataset = replace(subject.dataset, card=replace(card, request=replace(card.request, split=split)))
    assert create_protocol(replace(subject, dataset=dataset), TORCH).split_rule == rule


def answers(predicted: list[int]) -> ScoredLabels:
    """Answers to the four test images of the small dataset, which are benign, normal, benign, normal."""
    return ScoredLabels(np.array([0, 1, 0, 1]), np.eye(2)[predicted], np.array([0, 1, 2, 3]))


def test_masks_that_tell_the_classes_apart_against_a_model_that_does_not(subject: EvaluationSubject) -> None:
    found = compare_with_masks(subject, answers([1, 0, 1, 0]))
    assert found is not None
    assert (found.accuracy.value, found.macro_f1.value, found.difference.value) == (1.0, 1.0, -1.0)
    assert (found.only_model_right, found.only_masks_right) == (0, 4)
    assert found.p == pytest.approx(2 / 2**4)
    assert found.numbers == ("share of the image", "height / width", "fill of its box", "perimeter² / area")
    even = compare_with_masks(subject, answers([0, 1, 0, 1]))
    assert even is not None
    assert (even.difference.value, even.p) == (0.0, 1.0)


def test_no_mask_only_baseline_where_there_is_nothing_to_compare(
    subject: EvaluationSubject, new_dataset: Callable[..., PreparedDataset]
) -> None:
    assert compare_with_masks(replace(subject, split="train"), answers([0, 0, 0, 0])) is None
    rows = [{"id": str(i), "label": "benign", "split": "test", "bytes": png(0)} for i in range(4)]
    bare = replace(subject, dataset=new_dataset(rows, name="bare"))
    assert compare_with_masks(bare, answers([0, 0, 0, 0])) is None


def mistakes_of(dataset: PreparedDataset) -> tuple[Mistake, ...]:
    predictions = pa.table(
        {
            "id": ["test0", "test1", "test2"],
            "true_label": ["benign", "normal", "benign"],
            "label": ["normal", "normal", "normal"],
            "confidence": [0.75, 0.5, 1.0],
        }
    )
    return read_mistakes(dataset, predictions, np.array([2, 0]))


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
