"""Subject of an evaluation: a model and a split of a prepared dataset, with what makes the numbers doubtful.

A model that has seen the images, or that was trained on images of another look, gives numbers that say nothing about
new images. `check_test_images` refuses the first on a test split; `cautions` says both.
"""

from dataclasses import dataclass

import numpy as np

from overlay.config import OverlayStyle
from overlay.dataset.prepared import PreparedDataset
from overlay.dataset.rows import read_hashes
from overlay.errors import RequestError
from overlay.evaluation.report_data import SeenImages
from overlay.models.model_file import ModelFile
from overlay.models.training_hashes import SEEN_IN_TRAINING, SEEN_IN_VALIDATION, hashes_file
from overlay.storage.path import StoragePath


@dataclass(frozen=True)
class EvaluationSubject:
    """A model, and the split of a prepared dataset that it is evaluated on.

    Raises:
        RequestError: the dataset has a class that the model does not know.
    """

    model: ModelFile
    dataset: PreparedDataset
    split: str

    def __post_init__(self) -> None:
        known, classes = self.model.card.classes, self.dataset.card.classes
        if unknown := [name for name in classes if name not in known]:
            raise RequestError(
                f"the model knows the classes {', '.join(known)}, and {self.dataset.path} has {', '.join(unknown)}; "
                "evaluate it on a dataset of these classes, or of some of them"
            )

    @property
    def missing_classes(self) -> tuple[str, ...]:
        """Classes of the model that the dataset does not have."""
        return tuple(name for name in self.model.card.classes if name not in self.dataset.card.classes)

    def class_images(self) -> dict[str, int]:
        """Return the number of images of each class of the dataset in the split."""
        return {name: counts[self.split] for name, counts in self.dataset.card.counts.items()}


def describe_style(style: OverlayStyle | None) -> str:
    """Return an overlay style in words: "fill, #ff3b30, opacity 0.35"; "none"; "unknown"."""
    if style is None:
        return "unknown"
    drawn = {"fill": f", {style.color}, opacity {style.alpha}", "contour": f", {style.color}, {style.width} px"}
    return style.style + drawn.get(style.style, "")


def count_seen(subject: EvaluationSubject) -> SeenImages | None:
    """Count the images of the split that the model has seen; None where its file has no hashes.

    Raises:
        OSError: the dataset can't be read.
    """
    if (known := subject.model.hashes) is None:
        return None
    seen = known.look_up(read_hashes(subject.dataset, subject.split))
    train, val = (int(np.count_nonzero(seen == kind)) for kind in (SEEN_IN_TRAINING, SEEN_IN_VALIDATION))
    return SeenImages(len(seen), train, val, known.distance)


def check_split(subject: EvaluationSubject, seen: SeenImages | None, *, allow_seen: bool) -> None:
    """Check that a split has images, and that a model has not seen those of a test split.

    Raises:
        RequestError: there is no image, or there are seen ones, in the test split, and ``allow_seen`` is false.
    """
    if not sum(subject.class_images().values()):
        raise RequestError(f"{subject.dataset.path} has no image in the split {subject.split}; give another --split")
    if subject.split == "test" and seen is not None and seen.total and not allow_seen:
        raise RequestError(
            f"the model has seen {seen.total} of the {seen.images} test images ({_seen_counts(seen)}), by perceptual "
            f"hashes within {seen.distance} of 256 bits; evaluate it on images that it was not trained on, or give "
            "--allow_seen, and the report begins with these counts"
        )


def cautions(subject: EvaluationSubject, seen: SeenImages | None) -> tuple[str, ...]:
    """Return sentences about what makes the numbers doubtful, for the top of the page and for the screen."""
    card, style = subject.model.card, subject.dataset.card.request.overlay
    said = []
    if subject.split != "test":
        role = "trained on" if subject.split == "train" else "chosen by, and calibrated on,"
        same = card.dataset == subject.dataset.card.fingerprint
        said.append(
            f"This is the {subject.split} split{f', which the model was {role}' if same else ''}: its numbers are no "
            "estimate for new images."
        )
    if seen is not None and seen.total:
        said.append(f"The model has seen {seen.total} of these {seen.images} images ({_seen_counts(seen)}).")
    if card.hashes is not None and seen is None:
        file = hashes_file(StoragePath.of(subject.model.path))
        said.append(f"Whether the model has seen these images is not known: {file.name} is not beside the model file.")
    if card.overlay is not None and describe_style(card.overlay) != describe_style(style):
        said.append(
            f"The model was trained on images with the overlay {describe_style(card.overlay)}, and these have "
            f"{describe_style(style)}: this is not how it is meant to be used."
        )
    own, stored = card.max_side, subject.dataset.card.request.max_side
    if own != stored and card.dataset != "unknown":
        sides = [f"reduced to {side} pixels at most" if side else "not reduced" for side in (own, stored)]
        said.append(f"The model was trained on images {sides[0]}, and these are {sides[1]} (prepare --max_side).")
    return tuple(said)


def _seen_counts(seen: SeenImages) -> str:
    return f"{seen.train} near-duplicates of training images, {seen.val} of validation images"
