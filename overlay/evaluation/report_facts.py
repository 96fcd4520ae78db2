"""Facts of the evaluation report: protocol, baselines, doubted labels, subgroups, training history."""

from collections.abc import Sequence
from importlib.metadata import version

import numpy as np
import pyarrow as pa
import yaml
from numpy.typing import NDArray

from overlay import __version__
from overlay.config import SPLITS, EarlyStopping
from overlay.dataset.card import DatasetCard
from overlay.dataset.rows import read_rows
from overlay.evaluation import metrics
from overlay.evaluation.answers import EvaluatedAnswers
from overlay.evaluation.influence import accuracy_influence, macro_f1_influence
from overlay.evaluation.intervals import estimate_metric, paired_difference
from overlay.evaluation.label_doubts import label_doubts
from overlay.evaluation.outcome import ScoredLabels
from overlay.evaluation.paired_tests import share_flips_test
from overlay.evaluation.report_data import (
    ConstantAnswer,
    DatasetFlow,
    DoubtedLabel,
    Inference,
    MaskOnly,
    Protocol,
    TrainingCurves,
)
from overlay.evaluation.subgroups import SubgroupColumn, SubgroupTable, measure_subgroups, own_columns
from overlay.evaluation.subject import EvaluationSubject, describe_style
from overlay.storage.path import StoragePath
from overlay.training.history import best_epoch, history_table, read_history

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
        model_file=StoragePath.of(subject.model.path).name,
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
        split_rule=_split_rule(dataset),
        split_seed=dataset.request.split.seed,
        split_images={name: sum(counts[name] for counts in dataset.counts.values()) for name in SPLITS},
        flow=_flow(dataset),
        overlay=describe_style(dataset.request.overlay),
        model_overlay=describe_style(card.overlay),
        missing_classes=subject.missing_classes,
        inference=inference,
        versions={"overlay": __version__} | {name: version(name) for name in ("torch", "torchvision", "ray")},
        configuration=_configuration(StoragePath.of(subject.model.path).parent / "config.yaml"),
    )


def compare_with_masks(
    subject: EvaluationSubject, answers: EvaluatedAnswers, *, lesions_only: bool = False
) -> MaskOnly | None:
    """Compare a model with the mask-only baseline on the evaluated images.

    None for the training split, for a dataset without training images or masks, and without a mask in the split.

    ``lesions_only``: train and compare on the images with a lesion, since those without one tell their class by that;
    None where all images have one.
    """
    if subject.split == "train":
        return None
    columns = ["label", *MASK_NUMBERS]
    train, test = (read_rows(subject.dataset, split, columns) for split in ("train", subject.split))
    if any(table["mask_area_share"].null_count == len(table) for table in (train, test)):
        return None
    chosen = np.ones(len(test), np.bool_)
    if lesions_only:
        chosen = test["mask_area_share"].is_valid().to_numpy()
        if chosen.all():
            return None
        train = train.filter(train["mask_area_share"].is_valid())
    classes = subject.model.card.classes
    train_labels = np.array([classes.index(label) for label in train["label"].to_pylist()])
    masks = metrics.mask_only_answers(_mask_numbers(train), train_labels, _mask_numbers(test)[chosen])
    labels, groups, model = (values[chosen] for values in (answers.labels, answers.groups, answers.predicted))
    # The intervals take group numbers without gaps.
    groups = np.unique(groups, return_inverse=True)[1].astype(np.int64)
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


def compare_with_constant(answers: EvaluatedAnswers, classes: Sequence[str]) -> ConstantAnswer:
    """Compare a model with always answering the most frequent class of the evaluated images."""
    largest = int(np.bincount(answers.labels).argmax())
    constant = answers.labels == largest
    test = share_flips_test(answers.predicted == answers.labels, constant, answers.groups)
    return ConstantAnswer(classes[largest], float(constant.mean()), test.p)


def find_doubted_labels(ids: Sequence[str], scored: ScoredLabels, classes: Sequence[str]) -> tuple[DoubtedLabel, ...]:
    """Find the images whose label the model contradicts with confidence; the model must not have learnt from them."""
    doubts = label_doubts(scored.labels, scored.probabilities)
    rows = zip(doubts.images.tolist(), doubts.suggested.tolist(), doubts.margin.tolist(), strict=True)
    return tuple(
        DoubtedLabel(ids[image], classes[scored.labels[image]], classes[suggested], margin)
        for image, suggested, margin in rows
    )


def measure_all_subgroups(
    subject: EvaluationSubject, answers: EvaluatedAnswers, given: Sequence[SubgroupColumn]
) -> tuple[SubgroupTable, ...]:
    """Measure the subgroups by the user's columns, and by those that the dataset has itself."""
    rows = read_rows(subject.dataset, subject.split, ["source", "mask_lesions", "mask_area_share"])
    measured = (measure_subgroups(column, answers) for column in (*given, *own_columns(rows)))
    return tuple(table for table in measured if table is not None)


def read_training(run: StoragePath) -> TrainingCurves | None:
    """Read the history and the best epoch of the run whose folder a model lies in; None where it is no run."""
    epochs, configuration = read_history(run / "history.parquet"), _configuration(run / "config.yaml")
    if not epochs or not configuration:
        return None
    stopping = EarlyStopping(**yaml.safe_load(configuration)["early_stopping"])
    return TrainingCurves(history_table(epochs).to_pydict(), epochs[best_epoch(epochs, stopping)].epoch)


def _split_rule(dataset: DatasetCard) -> str:
    split = dataset.request.split
    if dataset.split_origin:
        return f"as given ({dataset.split_origin})"
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


def _configuration(file: StoragePath) -> str:
    return file.read_bytes().decode() if file.is_file() else ""
