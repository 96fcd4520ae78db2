"""Cross-validation folds: test, validation and training folds of each run, and a dataset as one run sees it."""

from collections import Counter
from dataclasses import replace

from overlay.config import SPLITS
from overlay.dataset.prepared import PreparedDataset, part_path
from overlay.errors import RequestError
from overlay.storage.parquet import open_parquet


def side_of_fold(fold: int, run: int, folds: int) -> str:
    """Return the split (train, val or test) of a fold in one of ``folds`` runs; folds and runs are counted from 0.

    In run i, fold i is test and the next fold is val (early stopping), so that each image is tested once. The column
    ``split`` of a dataset is that of run 0.
    """
    return {0: "test", 1: "val"}.get((fold - run) % folds, "train")


def count_folds(dataset: PreparedDataset) -> int:
    """Return the number of folds of a dataset; reads the column fold.

    Raises:
        RequestError: the dataset has no folds.
    """
    return 1 + max(fold for _, fold in _count_classes(dataset))


def select_fold(dataset: PreparedDataset, run: int) -> PreparedDataset:
    """Return the dataset as run ``run`` of the cross-validation sees it: another division into train, val and test.

    The counts of its card are those of this division. Reads the columns label and fold.

    Raises:
        RequestError: the dataset has no folds, or no fold of this number.
    """
    found = _count_classes(dataset)
    folds = 1 + max(fold for _, fold in found)
    if not 0 <= run < folds:
        raise RequestError(f"fold is {run}, and {dataset.path} has the folds 0 to {folds - 1}")
    rotation = tuple(side_of_fold(fold, run, folds) for fold in range(folds))
    counts = {name: dict.fromkeys(SPLITS, 0) for name in dataset.card.classes}
    for (label, fold), images in found.items():
        counts[label][rotation[fold]] += images
    return replace(dataset, card=replace(dataset.card, counts=counts), rotation=rotation, fold=run)


def _count_classes(dataset: PreparedDataset) -> Counter[tuple[str, int]]:
    """Count the images of each class in each fold."""
    found = Counter[tuple[str, int]]()
    for part in range(dataset.card.parts):
        table = open_parquet(part_path(dataset.place, part)).read(columns=["label", "fold"])
        if table["fold"].null_count:
            raise RequestError(f"{dataset.path} has no folds; prepare it with --split.folds 5")
        found.update(zip(table["label"].to_pylist(), table["fold"].to_pylist(), strict=True))
    return found
