from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from overlay.config import Split
from overlay.dataset.prepared import PreparedDataset
from overlay.evaluation.answers import EvaluatedAnswers
from overlay.evaluation.outcome import ScoredLabels
from overlay.evaluation.report_data import DatasetFlow, Inference
from overlay.evaluation.report_facts import (
    compare_with_constant,
    compare_with_masks,
    create_protocol,
    find_doubted_labels,
    read_training,
)
from overlay.evaluation.subject import EvaluationSubject
from overlay.storage.path import StoragePath
from overlay.training.history import Epoch, write_history
from tests.overlay.evaluation.conftest import CLASSES, png

TORCH = Inference("torch on cpu", "fp32", flips=False)


def test_protocol(subject: EvaluationSubject, tmp_path: Path) -> None:
    protocol = create_protocol(subject, TORCH)
    assert (protocol.model_file, protocol.model_sha256, protocol.arch) == ("m.pth", "ab" * 32, "resnet18")
    assert (protocol.image_size, protocol.resize, protocol.dataset) == (64, "squash", "dataset")
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


def answers(predicted: list[int]) -> EvaluatedAnswers:
    """Answers to the four test images of the small dataset, which are benign, normal, benign, normal."""
    return EvaluatedAnswers(np.array([0, 1, 0, 1]), np.array(predicted), np.arange(4))


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


def test_lesions_alone_are_compared_where_some_images_have_none(
    subject: EvaluationSubject, new_dataset: Callable[..., PreparedDataset]
) -> None:
    assert compare_with_masks(subject, answers([0, 1, 0, 1]), lesions_only=True) is None
    rows = [
        {"id": f"{split}{i}", "label": label, "split": split, "bytes": png(0)} | ({"area": area} if area else {})
        for split in ("train", "test")
        for i, (label, area) in enumerate([("benign", 0.2), ("normal", None), ("benign", 0.1), ("normal", 0.3)])
    ]
    some = replace(subject, dataset=new_dataset(rows, name="some"))
    everything, lesions = (compare_with_masks(some, answers([0, 1, 1, 1]), lesions_only=only) for only in (False, True))
    assert everything is not None
    assert lesions is not None
    assert (everything.accuracy.images, lesions.accuracy.images) == (4, 3)
    assert lesions.accuracy.value == 1
    assert lesions.difference.value == pytest.approx(-1 / 3)


def test_the_most_frequent_class_is_the_constant_answer() -> None:
    labels = np.array([0] * 5 + [1] * 15)
    # Right alone on all 5 benign images, wrong alone on 15 others: the known answer of the exact test.
    found = compare_with_constant(EvaluatedAnswers(labels, np.zeros(20, np.int64), np.arange(20)), CLASSES)
    assert (found.name, found.share) == ("normal", 0.75)
    assert found.p == pytest.approx(0.04138946533203125, abs=1e-15)


def test_doubted_labels() -> None:
    # The known answer of confident learning, 00001111: the 4th and the 8th image.
    first = np.array([0.9, 0.8, 0.7, 0.1, 0.2, 0.3, 0.4, 0.95])
    scored = ScoredLabels(np.repeat([0, 1], 4), np.stack([first, 1 - first], axis=1), np.arange(8))
    doubts = find_doubted_labels([f"{i + 1}.png" for i in range(8)], scored, CLASSES)
    assert [(doubt.id, doubt.label, doubt.suggested) for doubt in doubts] == [
        ("8.png", "normal", "benign"),
        ("4.png", "benign", "normal"),
    ]
    assert [doubt.margin for doubt in doubts] == pytest.approx([0.9, 0.8])


def test_the_training_of_a_run(tmp_path: Path) -> None:
    run = StoragePath.of(tmp_path)
    assert read_training(run) is None
    epochs = [
        Epoch(i + 1, 0.5, 0.5, loss, 0.5, 0.5, 1e-3, 10, 1, 1, 5, None, 0) for i, loss in enumerate((0.9, 0.4, 0.6))
    ]
    write_history(epochs, run / "history.parquet")
    (tmp_path / "config.yaml").write_text("early_stopping:\n  metric: val_loss\n  patience: 5\n")
    found = read_training(run)
    assert found is not None
    assert (found.best_epoch, found.history["val_loss"]) == (2, [0.9, 0.4, 0.6])
