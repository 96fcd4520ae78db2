from collections.abc import Callable
from dataclasses import replace

import pytest

from overlay.config import OverlayStyle
from overlay.dataset.prepared import PreparedDataset
from overlay.dataset.rows import hashes_of_hex
from overlay.errors import RequestError
from overlay.evaluation.report_data import SeenImages
from overlay.evaluation.subject import EvaluationSubject, cautions, check_split, count_seen
from overlay.models.training_hashes import TrainingHashes
from tests.overlay.evaluation.conftest import png

FILL = OverlayStyle()


def hexadecimal(bits: int) -> str:
    """A hash with every other bit set, and then so many of the first ones flipped."""
    return f"{int('a' * 64, 16) ^ ((1 << 256) - (1 << (256 - bits))):064x}"


def with_hashes(subject: EvaluationSubject, train: list[str], val: list[str]) -> EvaluationSubject:
    known = TrainingHashes.create(hashes_of_hex(train), hashes_of_hex(val), 40)
    card = replace(subject.model.card, hashes=known.record, overlay=FILL)
    return replace(subject, model=replace(subject.model, card=card, hashes=known))


@pytest.fixture
def seen_subject(subject: EvaluationSubject, new_dataset: Callable[..., PreparedDataset]) -> EvaluationSubject:
    """Test images: trained on; 40 bits from that; 41 bits from it; a constant one, which is among the training's too.

    The fourth one of five is 10 bits from a validation image, and 50 from the training image.
    """
    hashes = [hexadecimal(0), hexadecimal(40), hexadecimal(41), hexadecimal(50), "8" + "0" * 63]
    rows = [
        {"id": f"t{i}", "label": "benign", "split": "test", "bytes": png(0), "phash": text}
        for i, text in enumerate(hashes)
    ]
    dataset = new_dataset(rows, name="seen")
    return with_hashes(replace(subject, dataset=dataset), [hexadecimal(0), hashes[-1]], [hexadecimal(60)])


def test_a_dataset_with_a_class_that_the_model_does_not_know_is_refused(subject: EvaluationSubject) -> None:
    card = replace(subject.model.card, classes=("normal", "malignant"))
    with pytest.raises(RequestError, match=r"knows the classes normal, malignant, and .*dataset has benign; evaluate"):
        replace(subject, model=replace(subject.model, card=card))


def test_a_dataset_with_fewer_classes_in_any_order_is_taken(subject: EvaluationSubject) -> None:
    card = replace(subject.model.card, classes=("normal", "malignant", "benign"))
    found = replace(subject, model=replace(subject.model, card=card))
    assert (subject.missing_classes, found.missing_classes) == ((), ("malignant",))


def test_seen_images_are_counted_within_the_distance_and_constant_ones_left_out(
    seen_subject: EvaluationSubject,
) -> None:
    assert count_seen(seen_subject) == SeenImages(5, train=2, val=2, distance=40)
    assert count_seen(replace(seen_subject, model=replace(seen_subject.model, hashes=None))) is None


def test_seen_test_images_are_refused_with_their_counts_unless_allowed(seen_subject: EvaluationSubject) -> None:
    seen = count_seen(seen_subject)
    message = (
        r"^the model has seen 4 of the 5 test images \(2 near-duplicates of training images, 2 of validation images\), "
        "by perceptual hashes within 40 of 256 bits; .*--allow_seen"
    )
    with pytest.raises(RequestError, match=message):
        check_split(seen_subject, seen, allow_seen=False)
    check_split(seen_subject, seen, allow_seen=True)
    check_split(replace(seen_subject, split="val"), seen, allow_seen=False)
    check_split(seen_subject, None, allow_seen=False)


def test_a_split_without_images_is_refused(subject: EvaluationSubject) -> None:
    card = replace(subject.dataset.card, counts={name: {"train": 0, "val": 0, "test": 3} for name in ("benign",)})
    bare = replace(subject, dataset=replace(subject.dataset, card=card), split="val")
    with pytest.raises(RequestError, match="has no image in the split val; give another --split"):
        check_split(bare, None, allow_seen=False)


def test_cautions_of_seen_images_and_of_another_look(seen_subject: EvaluationSubject) -> None:
    (said,) = cautions(seen_subject, count_seen(seen_subject))
    assert said == (
        "The model has seen 4 of these 5 images (2 near-duplicates of training images, 2 of validation images)."
    )
    contour = replace(seen_subject.model.card, overlay=OverlayStyle(style="contour"))
    other = replace(seen_subject, model=replace(seen_subject.model, card=contour))
    (said,) = cautions(other, SeenImages(5, 0, 0, 40))
    assert "trained on images with the overlay contour, #ff3b30, 3 px, and these have fill, #ff3b30, op" in said


def test_caution_of_another_longest_side(seen_subject: EvaluationSubject) -> None:
    card = replace(seen_subject.model.card, max_side=512)
    other = replace(seen_subject, model=replace(seen_subject.model, card=card))
    (said,) = cautions(other, SeenImages(5, 0, 0, 40))
    assert said.startswith(
        "The model was trained on images reduced to 512 pixels at most, and these are not reduced (p"
    )
    dataset = seen_subject.dataset
    request = replace(dataset.card.request, max_side=512)
    alike = replace(other, dataset=replace(dataset, card=replace(dataset.card, request=request)))
    assert cautions(alike, SeenImages(5, 0, 0, 40)) == ()


def test_cautions_of_a_training_split_and_of_hashes_that_are_not_there(seen_subject: EvaluationSubject) -> None:
    card = replace(seen_subject.model.card, dataset=seen_subject.dataset.card.fingerprint)
    lost = replace(seen_subject, model=replace(seen_subject.model, card=card, hashes=None), split="train")
    first, second = cautions(lost, None)
    assert first.startswith("This is the train split, which the model was trained on: its numbers are no estimate")
    assert second.endswith("is not known: m.pth.hashes is not beside the model file.")


def test_a_legacy_model_has_nothing_to_be_said_of(subject: EvaluationSubject) -> None:
    assert (count_seen(subject), cautions(subject, None)) == (None, ())
