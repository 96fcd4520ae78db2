"""Classification metrics from counts for all verbs: confusion matrix, accuracy, macro-F1; mask-only baseline.

Sums over workers and batches are always counts: a confusion matrix, rows the true class, columns the predicted one.
``accuracy`` and ``macro_f1`` read that matrix with NumPy alone, so that a training worker does not have to import SciPy
or scikit-learn. ``overlay.evaluation.estimates`` has all metrics with their intervals.
"""

import numpy as np
from numpy.typing import NDArray


def confusion_matrix(labels: NDArray[np.int64], predicted: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """Count (n,) true and (n,) predicted class indices into a (classes, classes) matrix, rows true."""
    counts = np.bincount(labels * classes + predicted, minlength=classes * classes)
    return counts.astype(np.int64).reshape(classes, classes)


def accuracy(confusion: NDArray[np.int64]) -> float:
    """Return the share of the counted images on the diagonal of a (C, C) matrix.

    Raises:
        ZeroDivisionError: all counts are 0.
    """
    return int(np.trace(confusion)) / int(confusion.sum())


def macro_f1(confusion: NDArray[np.int64]) -> float:
    """Return the mean F1 over the classes of a (C, C) matrix.

    A class that is neither seen nor predicted is left out of the mean; one that is only seen, or only predicted, enters
    it with 0. This is scikit-learn's ``f1_score(average="macro", zero_division=0)``.

    Raises:
        ZeroDivisionError: all counts are 0.
    """
    seen_or_predicted = confusion.sum(axis=0) + confusion.sum(axis=1)
    present = seen_or_predicted > 0
    f1 = 2 * np.diagonal(confusion)[present] / seen_or_predicted[present]
    return float(f1.sum()) / len(f1)


def worst_mistakes(labels: NDArray[np.int64], probabilities: NDArray[np.float64], limit: int = 12) -> NDArray[np.int64]:
    """Return the row numbers of at most ``limit`` misclassified images, the most confident first."""
    mistakes = np.flatnonzero(probabilities.argmax(axis=1) != labels)
    confidence = probabilities[mistakes].max(axis=1)
    return mistakes[np.argsort(-confidence, kind="stable")][:limit]


def mask_only_answers(
    train_numbers: NDArray[np.float64], train_labels: NDArray[np.int64], test_numbers: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Return the predicted labels of the mask-only baseline, (n,): a classifier of mask shapes that sees no pixel.

    The outline of a lesion predicts much of its class, so a model that is shown the mask must be read beside this
    number. A random forest of 500 trees (seeded) is fitted to ``train_numbers`` and applied to ``test_numbers``:
    (n, k) with the k numbers of each image's mask, NaN where an image has no mask.
    """
    from sklearn.ensemble import RandomForestClassifier

    # Zero is what an empty mask measures, and a forest sets it apart from every real one.
    forest = RandomForestClassifier(n_estimators=500, random_state=0)
    forest.fit(np.nan_to_num(train_numbers), train_labels)
    answers: NDArray[np.int64] = forest.predict(np.nan_to_num(test_numbers))
    return answers
