"""Data of the evaluation report: protocol, mask-only baseline, worst mistakes."""

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from overlay import __version__
from overlay.config import SPLITS, Split
from overlay.dataset.prepared import PreparedDataset
from overlay.errors import RequestError
from overlay.evaluation import metrics
from overlay.evaluation.dataset_images import open_tables, read_encoded, split_filter
from overlay.evaluation.report import MaskOnly, Mistake, Protocol
from overlay.images.codec import decode_image
from overlay.models.model_file import ModelFile

MASK_NUMBERS = {
    "mask_area_share": "share of the image",
    "mask_aspect": "height / width",
    "mask_extent": "fill of its box",
    "mask_compactness": "perimeter² / area",
}
"""column of a prepared dataset -> the number of a mask in words"""


@dataclass(frozen=True)
class EvaluationSubject:
    """A model, and the split of a prepared dataset that it is evaluated on.

    Raises:
        RequestError: the classes of the model are not those of the dataset, in their order.
    """

    model: ModelFile
    dataset: PreparedDataset
    split: str

    def __post_init__(self) -> None:
        known, classes = self.model.card.classes, self.dataset.card.classes
        if tuple(classes) != known:
            raise RequestError(
                f"the model knows the classes {', '.join(known)}, and {self.dataset.path} has {', '.join(classes)}; "
                "evaluate it on a dataset with the same classes"
            )


def create_protocol(subject: EvaluationSubject) -> Protocol:
    """Describe the model, the dataset and its division into splits."""
    card, dataset = subject.model.card, subject.dataset.card
    style = dataset.request.overlay
    drawn = {"fill": f", {style.color}, opacity {style.alpha}", "contour": f", {style.color}, {style.width} px"}
    return Protocol(
        model_file=Path(subject.model.path).name,
        model_sha256=subject.model.sha256,
        arch=card.arch,
        image_size=card.size,
        resize=card.resize,
        dataset=subject.dataset.place.name,
        fingerprint=dataset.fingerprint,
        split=subject.split,
        split_rule=_split_rule(dataset.request.split),
        split_images={name: sum(counts[name] for counts in dataset.counts.values()) for name in SPLITS},
        overlay=style.style + drawn.get(style.style, ""),
        versions={"overlay": __version__} | {name: version(name) for name in ("torch", "torchvision", "ray")},
    )


def measure_mask_only(dataset: PreparedDataset, split: str) -> MaskOnly | None:
    """Measure the mask-only baseline on a split; None for the training split, and for a dataset without any mask."""
    train_numbers, train_labels = _read_mask_numbers(dataset, "train")
    numbers, labels = _read_mask_numbers(dataset, split)
    if split == "train" or (np.isnan(train_numbers).all() and np.isnan(numbers).all()):
        return None
    accuracy, macro_f1 = metrics.mask_only_scores(train_numbers, train_labels, numbers, labels)
    return MaskOnly(accuracy, macro_f1, tuple(MASK_NUMBERS.values()))


def _read_mask_numbers(dataset: PreparedDataset, split: str) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Read the numbers of the masks of a split, (n, k) with NaN where an image has no mask, and the class indices."""
    table = open_tables(dataset).to_table(columns=["label", *MASK_NUMBERS], filter=split_filter(dataset, split))
    numbers = np.stack([table[name].to_numpy() for name in MASK_NUMBERS], axis=1)
    return numbers, np.array([dataset.card.classes.index(label) for label in table["label"].to_pylist()])


def read_mistakes(dataset: PreparedDataset, predictions: pa.Table, rows: NDArray[np.int64]) -> tuple[Mistake, ...]:
    """Read the images of misclassified rows of a table of predictions, in the order of ``rows``."""
    wrong = predictions.take(rows).to_pylist()
    encoded = read_encoded(dataset, [row["id"] for row in wrong])
    max_pixels = dataset.card.request.max_pixels
    return tuple(
        Mistake(
            id=row["id"],
            label=row["true_label"],
            predicted=row["label"],
            confidence=row["confidence"],
            image=decode_image(encoded[row["id"]], max_pixels=max_pixels),
        )
        for row in wrong
    )


def _split_rule(split: Split) -> str:
    if split.column:
        return f"as given ({split.column})"
    grouped = f", and groups ({split.group_by})," if split.group_by else ""
    folds = f" in {split.folds} folds" if split.folds else ""
    return f"at random{folds}, near-duplicates{grouped} kept together"
