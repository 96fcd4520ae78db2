"""Cross-validation folds: test, validation and training folds of each run."""


def side_of_fold(fold: int, run: int, folds: int) -> str:
    """Return the split (train, val or test) of a fold in one of ``folds`` runs; folds and runs are counted from 0.

    In run i, fold i is test and the next fold is val (early stopping), so that each image is tested once. The column
    ``split`` of a dataset is that of run 0.
    """
    return {0: "test", 1: "val"}.get((fold - run) % folds, "train")
