"""Facts of the evaluation report: protocol, mask-only baseline, worst mistakes."""

from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from overlay import __version__
from overlay.config import SPLITS, Split
from overlay.dataset.card import DatasetCard
from overlay.dataset.prepared import PreparedDataset
from overlay.dataset.rows import read_rows
from overlay.evaluation import metrics
from overlay.evaluation.dataset_images import read_encoded
from overlay.evaluation.influence import accuracy_influence, macro_f1_influence
from overlay.evaluation.intervals import estimate_metric, paired_difference
from overlay.evaluation.outcome import ScoredLabels
from overlay.evaluation.paired_tests import share_flips_test
from overlay.evaluation.report_data import DatasetFlow, Inference, MaskOnly, Mistake, Protocol
from overlay.evaluation.subject import EvaluationSubject, describe_style
from overlay.images.codec import decode_image

MASK_NUMBERS = {
    "mask_area_share": "share of the image",
    "mask_aspect": "height / width",
    "mask_extent": "fill of its box",
    "mask_compactness": "perimeter² / area",
}
"""column of a prepared dataset -> the number of a mask in words"""


def create_protocol(subject: EvaluationSubject, inference: Inference) -> Protocol:
    """Describe the model, the dataset and its division into splits, and the computation."""
    card, dataset = subject.model.card, subject.dataset.card
    return Protocol(
        model_file=Path(subject.model.path).name,
        model_sha256=subject.model.sha256,
        arch=card.arch,
        image_size=card.size,
        resize=card.resize,
        weights=card.weights,
        trained_on=card.dataset,
        dataset=subject.dataset.place.name,
        fingerprint=dataset.fingerprint,
        split=subject.split,
        fold=subject.dataset.fold,
        folds=dataset.request.split.folds,
        split_rule=_split_rule(dataset.request.split),
        split_seed=dataset.request.split.seed,
        split_images={name: sum(counts[name] for counts in dataset.counts.values()) for name in SPLITS},
        flow=_flow(dataset),
        overlay=describe_style(dataset.request.overlay),
        model_overlay=describe_style(card.overlay),
        missing_classes=subject.missing_classes,
        inference=inference,
        versions={"overlay": __version__} | {name: version(name) for name in ("torch", "torchvision", "ray")},
        configuration=_configuration(Path(subject.model.path).parent / "config.yaml"),
    )


def compare_with_masks(subject: EvaluationSubject, answers: ScoredLabels) -> MaskOnly | None:
    """Compare a model with the mask-only baseline on the evaluated images.

    None for the training split, for a dataset without training images or masks, and without a mask in the split.
    """
    if subject.split == "train":
        return None
    columns = ["label", *MASK_NUMBERS]
    train, test = (read_rows(subject.dataset, split, columns) for split in ("train", subject.split))
    if any(table["mask_area_share"].null_count == len(table) for table in (train, test)):
        return None
    classes = subject.model.card.classes
    train_labels = np.array([classes.index(label) for label in train["label"].to_pylist()])
    masks = metrics.mask_only_answers(_mask_numbers(train), train_labels, _mask_numbers(test))
    labels, groups, model = answers.labels, answers.groups, answers.predicted
    right, masks_right = model == labels, masks == labels
    accuracy = accuracy_influence(labels, masks)
    return MaskOnly(
        accuracy=estimate_metric(accuracy, groups),
        macro_f1=estimate_metric(macro_f1_influence(labels, masks), groups),
        difference=paired_difference(accuracy_influence(labels, model), accuracy, groups),
        p=share_flips_test(right, masks_right, groups).p,
        only_model_right=int((right & ~masks_right).sum()),
        only_masks_right=int((masks_right & ~right).sum()),
        numbers=tuple(MASK_NUMBERS.values()),
    )


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
    if split.only:
        return f"not at all: every image is in {split.only} (split.only)"
    if split.column:
        return f"as given ({split.column})"
    grouped = f", and groups ({split.group_by})," if split.group_by else ""
    folds = f" in {split.folds} folds" if split.folds else ""
    return f"at random{folds}, near-duplicates{grouped} kept together"


def _flow(dataset: DatasetCard) -> DatasetFlow:
    images = sum(sum(counts.values()) for counts in dataset.counts.values())
    return DatasetFlow(
        listed=images + dataset.rejected,
        rejected=dataset.rejected,
        conflicts=dataset.conflicts,
        near_duplicates=dataset.near_duplicates,
        groups=dataset.groups,
        images=dataset.counts,
    )


def _mask_numbers(table: pa.Table) -> NDArray[np.float64]:
    return np.stack([table[name].to_numpy() for name in MASK_NUMBERS], axis=1)


def _configuration(file: Path) -> str:
    return file.read_text(encoding="utf-8") if file.is_file() else ""
