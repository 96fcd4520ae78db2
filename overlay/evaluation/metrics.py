"""Classification metrics for all verbs: confusion matrix, accuracy, F1, AUROC, log loss, mask-only baseline.

Sums over workers and batches are always counts: a confusion matrix, rows the true class, columns the predicted one.
``accuracy`` and ``macro_f1`` read that matrix with NumPy alone, so that a training worker does not have to import
scikit-learn; everything else is scikit-learn's, and the tests compare the two.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from overlay.errors import WorkError


@dataclass(frozen=True)
class ClassScores:
    """Metrics of one class against the rest; a precision without predictions and a recall without images are 0."""

    name: str
    precision: float
    recall: float
    f1: float
    support: int
    """images of this true class"""
    auroc: float | None
    """area under the ROC curve against all other classes; None where one of the two sides has no image"""


@dataclass(frozen=True)
class Mean:
    """Precision, recall and F1 averaged over the classes."""

    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class Evaluation:
    """All metrics of one set of predictions."""

    classes: tuple[str, ...]
    images: int
    accuracy: float
    accuracy_interval: tuple[float, float]
    """95 % interval of the accuracy (Wilson 1927, JASA 22:209), as if the images were independent of each other"""
    balanced_accuracy: float
    """mean recall over the classes that occur among the true ones"""
    macro: Mean
    """each class that is seen or predicted counts the same"""
    weighted: Mean
    """each class counts by its support"""
    auroc: float | None
    """mean of the classes' one-vs-rest AUROC; None where that of any class is"""
    log_loss: float
    """mean of -ln(probability of the true class), in nats"""
    per_class: tuple[ClassScores, ...]
    confusion: tuple[tuple[int, ...], ...]
    """counts, rows the true class, columns the predicted one, in the order of ``classes``"""

    def to_json(self) -> dict[str, Any]:
        """Return the content of ``metrics.json``: plain numbers, and None where a number is not defined."""
        return asdict(self)


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


def compute_evaluation(
    labels: NDArray[np.int64], probabilities: NDArray[np.float64], classes: Sequence[str]
) -> Evaluation:
    """Compute all metrics of a set of predictions.

    Args:
        labels: (n,) indices into ``classes``, n at least 1.
        probabilities: (n, C), one row an image, each row adding up to 1 within the precision of the model.
        classes: C names.

    Raises:
        WorkError: a probability is not a finite number.
        ValueError: n is 0, or the probabilities are not of the shape (n, C).
    """
    from scipy.stats import binomtest
    from sklearn.metrics import accuracy_score, log_loss, precision_recall_fscore_support, recall_score

    _check_probabilities(labels, probabilities, classes)
    n, indices = len(labels), np.arange(len(classes))
    predicted = probabilities.argmax(axis=1)
    right = int((predicted == labels).sum())
    interval = binomtest(right, n).proportion_ci(0.95, method="wilson")
    precision, recall, f1, support = precision_recall_fscore_support(labels, predicted, labels=indices, zero_division=0)
    auroc = [_auroc(labels == index, probabilities[:, index]) for index in indices]
    defined = [area for area in auroc if area is not None]
    # scikit-learn warns about rows that miss 1 by more than float64 would; a float32 softmax does.
    normalised = probabilities / probabilities.sum(axis=1, keepdims=True)
    return Evaluation(
        classes=tuple(classes),
        images=n,
        accuracy=float(accuracy_score(labels, predicted)),
        accuracy_interval=(float(interval.low), float(interval.high)),
        # The recall of the classes that occur is balanced_accuracy_score, which would warn about the other ones.
        balanced_accuracy=float(recall_score(labels, predicted, labels=np.unique(labels), average="macro")),
        macro=_mean(labels, predicted, "macro"),
        weighted=_mean(labels, predicted, "weighted"),
        auroc=sum(defined) / len(defined) if len(defined) == len(classes) else None,
        log_loss=float(log_loss(labels, normalised, labels=indices)),
        per_class=tuple(
            ClassScores(name, float(precision[i]), float(recall[i]), float(f1[i]), int(support[i]), auroc[i])
            for i, name in enumerate(classes)
        ),
        confusion=tuple(map(tuple, confusion_matrix(labels, predicted, len(classes)).tolist())),
    )


def summary_line(evaluation: Evaluation) -> str:
    """Return accuracy, its interval and macro-F1 in one line, for the command line."""
    low, high = evaluation.accuracy_interval
    return (
        f"accuracy {evaluation.accuracy:.3f} (95 % interval {low:.3f} to {high:.3f}), macro-F1 "
        f"{evaluation.macro.f1:.3f} on {evaluation.images} images"
    )


def classification_report_csv(evaluation: Evaluation) -> str:
    """Return scikit-learn's classification report as CSV, with the columns class, precision, recall, f1, support.

    One row for each class, then ``accuracy`` (in the column of F1, as scikit-learn prints it), ``macro avg`` and
    ``weighted avg``.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["class", "precision", "recall", "f1", "support"])
    for scores in evaluation.per_class:
        writer.writerow([scores.name, scores.precision, scores.recall, scores.f1, scores.support])
    writer.writerow(["accuracy", "", "", evaluation.accuracy, evaluation.images])
    for name, mean in (("macro avg", evaluation.macro), ("weighted avg", evaluation.weighted)):
        writer.writerow([name, mean.precision, mean.recall, mean.f1, evaluation.images])
    return text.getvalue()


def worst_mistakes(labels: NDArray[np.int64], probabilities: NDArray[np.float64], limit: int = 12) -> NDArray[np.int64]:
    """Return the row numbers of at most ``limit`` misclassified images, the most confident first."""
    mistakes = np.flatnonzero(probabilities.argmax(axis=1) != labels)
    confidence = probabilities[mistakes].max(axis=1)
    return mistakes[np.argsort(-confidence, kind="stable")][:limit]


def mask_only_scores(
    train_numbers: NDArray[np.float64],
    train_labels: NDArray[np.int64],
    test_numbers: NDArray[np.float64],
    test_labels: NDArray[np.int64],
) -> tuple[float, float]:
    """Return accuracy and macro-F1 of the mask-only baseline: a classifier of mask shapes that sees no pixel.

    The outline of a lesion predicts much of its class, so a model that is shown the mask must be read beside this
    number. A random forest of 500 trees (seeded) is fitted to ``train_numbers`` and measured on ``test_numbers``:
    (n, k) with the k numbers of each image's mask, NaN where an image has no mask.
    """
    from sklearn.ensemble import RandomForestClassifier

    # Zero is what an empty mask measures, and a forest sets it apart from every real one.
    forest = RandomForestClassifier(n_estimators=500, random_state=0)
    forest.fit(np.nan_to_num(train_numbers), train_labels)
    predicted = forest.predict(np.nan_to_num(test_numbers))
    counts = confusion_matrix(test_labels, predicted, int(max(train_labels.max(), test_labels.max())) + 1)
    return accuracy(counts), macro_f1(counts)


def _check_probabilities(labels: NDArray[np.int64], probabilities: NDArray[np.float64], classes: Sequence[str]) -> None:
    n = len(labels)
    if n == 0 or probabilities.shape != (n, len(classes)):
        raise ValueError(f"{n} labels and {len(classes)} classes do not go with probabilities of {probabilities.shape}")
    if broken := int((~np.isfinite(probabilities)).any(axis=1).sum()):
        raise WorkError(
            f"the model's probabilities are not numbers for {broken} of {n} images; its training diverged or its file "
            "is damaged, so take another checkpoint"
        )


def _auroc(is_class: NDArray[np.bool_], probability: NDArray[np.float64]) -> float | None:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(is_class, probability)) if 0 < is_class.sum() < len(is_class) else None


def _mean(labels: NDArray[np.int64], predicted: NDArray[np.int64], average: str) -> Mean:
    from sklearn.metrics import precision_recall_fscore_support

    precision, recall, f1, _ = precision_recall_fscore_support(labels, predicted, average=average, zero_division=0)
    return Mean(float(precision), float(recall), float(f1))
