"""Folds of cross-validation: which fold is test, validation or training data."""


def side_of_fold(fold: int, run: int, folds: int) -> str:
    """Return the split to which a fold belongs in one of ``folds`` runs.

    Run i is tested on fold i and stopped by the one after it, so each image is tested once. The column ``split`` of a
    dataset is that of run 0.
    """
    return {0: "test", 1: "val"}.get((fold - run) % folds, "train")
