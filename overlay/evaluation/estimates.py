"""All metrics of a set of predictions, each with its 95 % interval over groups; scikit-learn's classification report.

The values come from influence functions, which give the intervals too; the tests compare them with scikit-learn's.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from overlay.errors import WorkError
from overlay.evaluation import influence
from overlay.evaluation.influence import Influence
from overlay.evaluation.intervals import Estimate, estimate_metric
from overlay.evaluation.metrics import confusion_matrix
from overlay.storage.csv_text import format_csv

SUM_TOLERANCE = 0.02
"""largest distance from 1 of the sum of an image's probabilities: a softmax in bf16, of 8 significant bits, misses it
by rounding"""


@dataclass(frozen=True)
class ClassScores:
    """Metrics of one class against the rest; one that is not defined, such as the recall without images, is None."""

    name: str
    precision: Estimate | None
    recall: Estimate | None
    f1: Estimate | None
    support: int
    """images of this true class"""
    auroc: Estimate | None
    """area under the ROC curve against all other classes; None where one of the two sides has no image"""


@dataclass(frozen=True)
class Evaluation:
    """All metrics of one set of predictions, each with its 95 % interval over groups of dependent images."""

    classes: tuple[str, ...]
    images: int
    groups: int
    """groups of dependent images: patients, or near-duplicates"""
    accuracy: Estimate
    balanced_accuracy: Estimate
    """mean recall over the classes that occur among the true ones"""
    macro_precision: Estimate
    macro_recall: Estimate
    macro_f1: Estimate
    """mean over the classes that are seen or predicted; of a dataset with fewer classes, over these"""
    auroc: Estimate | None
    """mean of the classes' one-vs-rest AUROC; None where that of any class is"""
    log_loss: Estimate
    """mean of -ln(probability of the true class), in nats; one image costs at most ``LARGEST_LOG_LOSS``"""
    brier: Estimate
    """mean over the images of the squared errors of all probabilities, summed; between 0 and 2"""
    per_class: tuple[ClassScores, ...]
    confusion: tuple[tuple[int, ...], ...]
    """counts, rows the true class, columns the predicted one, in the order of ``classes``"""

    def to_json(self) -> dict[str, Any]:
        """Return the numbers of ``metrics.json``: plain values, and all intervals in ``estimates``, a row a metric."""
        values = {name: None if found is None else found.value for name, found in self.overall()}
        per_class = [
            {"name": scores.name, "support": scores.support}
            | {name: None if found is None else found.value for name, found in class_metrics(scores)}
            for scores in self.per_class
        ]
        return {
            "classes": list(self.classes),
            "images": self.images,
            "groups": self.groups,
            **values,
            "per_class": per_class,
            "confusion": [list(row) for row in self.confusion],
            "estimates": [
                {"metric": metric, "class": name, **asdict(found)}
                for metric, name, found in self.estimates()
                if found is not None
            ],
        }

    def overall(self) -> list[tuple[str, Estimate | None]]:
        """Return the metrics over all classes by name."""
        names = ("accuracy", "balanced_accuracy", "macro_precision", "macro_recall", "macro_f1", "auroc")
        return [(name, getattr(self, name)) for name in (*names, "log_loss", "brier")]

    def estimates(self) -> list[tuple[str, str | None, Estimate | None]]:
        """Return all metrics as name, class (None: over all classes) and estimate."""
        rows: list[tuple[str, str | None, Estimate | None]] = [(name, None, found) for name, found in self.overall()]
        for scores in self.per_class:
            rows += [(name, scores.name, found) for name, found in class_metrics(scores)]
        return rows


def class_metrics(scores: ClassScores) -> list[tuple[str, Estimate | None]]:
    """Return the metrics of a class by name."""
    return [(name, getattr(scores, name)) for name in ("precision", "recall", "f1", "auroc")]


def compute_evaluation(
    labels: NDArray[np.int64],
    probabilities: NDArray[np.float64],
    classes: Sequence[str],
    groups: NDArray[np.int64] | None = None,
    counted: Sequence[str] | None = None,
) -> Evaluation:
    """Compute all metrics of a set of predictions.

    Args:
        labels: (n,) indices into ``classes``, n at least 1.
        probabilities: (n, C), one row an image, each row adding up to 1 within the precision of the model.
        classes: C names.
        groups: (n,) non-negative integers, equal for images of one group; where it is None, each image is its own.
        counted: classes over which macro means and AUROC are taken, where the dataset has fewer than the model.

    Raises:
        WorkError: a row is no distribution: a value is not a finite number or below 0, or the sum is not 1.
        ValueError: n is 0, or the probabilities are not of the shape (n, C).
    """
    check_probabilities(labels, probabilities, classes)
    own = np.arange(len(labels)) if groups is None else groups
    predicted = probabilities.argmax(axis=1)
    known = [index for index, name in enumerate(classes) if counted is None or name in counted]

    def estimate(metric: Influence) -> Estimate:
        return estimate_metric(metric, own)

    def possible(metric: Influence | None) -> Estimate | None:
        return None if metric is None else estimate(metric)

    macro = _macro_of(labels, predicted, known) if len(known) < len(classes) else _macro(labels, predicted)
    areas = [influence.auroc_influence(labels == index, probabilities[:, index]) for index in range(len(classes))]
    defined = [area for index in known if (area := areas[index]) is not None]
    return Evaluation(
        classes=tuple(classes),
        images=len(labels),
        groups=len(np.unique(own)),
        accuracy=estimate(influence.accuracy_influence(labels, predicted)),
        balanced_accuracy=estimate(influence.balanced_accuracy_influence(labels, predicted)),
        macro_precision=estimate(macro[0]),
        macro_recall=estimate(macro[1]),
        macro_f1=estimate(macro[2]),
        auroc=estimate(influence.mean_influence(defined)) if len(defined) == len(known) else None,
        log_loss=estimate(influence.log_loss_influence(labels, probabilities)),
        brier=estimate(influence.brier_influence(labels, probabilities)),
        per_class=tuple(
            ClassScores(
                name,
                possible(influence.precision_influence(labels, predicted, index)),
                possible(influence.recall_influence(labels, predicted, index)),
                possible(influence.f1_influence(labels, predicted, index)),
                int((labels == index).sum()),
                possible(areas[index]),
            )
            for index, name in enumerate(classes)
        ),
        confusion=tuple(map(tuple, confusion_matrix(labels, predicted, len(classes)).tolist())),
    )


def summary_line(evaluation: Evaluation) -> str:
    """Return accuracy, macro-F1, AUROC and log loss with their intervals in one line, for the command line."""
    named = {"accuracy": evaluation.accuracy, "macro-F1": evaluation.macro_f1, "AUROC": evaluation.auroc}
    said = [f"{name} {estimate_text(found)}" for name, found in named.items() if found is not None]
    return (
        f"{', '.join(said)}, log loss {estimate_text(evaluation.log_loss)}; 95 % intervals over {evaluation.images} "
        f"images in {evaluation.groups} groups"
    )


def estimate_text(found: Estimate) -> str:
    """Return a value with its interval as text, "0.640 (0.501 to 0.760)"."""
    return f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f})"


def classification_report_csv(evaluation: Evaluation) -> str:
    """Return scikit-learn's classification report as CSV, with the columns class, precision, recall, f1, support.

    One row for each class, then ``accuracy`` (in the column of F1, as scikit-learn prints it), ``macro avg`` and
    ``weighted avg``. As there, a metric that is not defined is 0, and ``macro avg`` is over all classes of the table,
    those without an image as well; ``Evaluation.macro_f1`` is over the classes that are seen or predicted.
    """
    from sklearn.metrics import precision_recall_fscore_support

    true, predicted = (axis.ravel() for axis in np.indices((len(evaluation.classes),) * 2))
    counts = np.array(evaluation.confusion).ravel()
    pairs = np.repeat(true, counts), np.repeat(predicted, counts)
    options = {"labels": range(len(evaluation.classes)), "zero_division": 0}
    columns = [column.tolist() for column in precision_recall_fscore_support(*pairs, **options)[:3]]
    # Its support is of floats where no answer is right.
    support = [scores.support for scores in evaluation.per_class]
    rows: list[Sequence[object]] = [["class", "precision", "recall", "f1", "support"]]
    rows += zip(evaluation.classes, *columns, support, strict=True)
    rows.append(["accuracy", "", "", evaluation.accuracy.value, evaluation.images])
    for average in ("macro", "weighted"):
        means = precision_recall_fscore_support(*pairs, average=average, **options)
        rows.append([f"{average} avg", *map(float, means[:3]), evaluation.images])
    return format_csv(rows)


def check_probabilities(labels: NDArray[np.int64], probabilities: NDArray[np.float64], classes: Sequence[str]) -> None:
    """Check that the rows of (n, C) probabilities are distributions over the classes.

    Raises:
        WorkError: a value is not a finite number or is negative, or a row does not add up to 1 (``SUM_TOLERANCE``).
        ValueError: n is 0, or the shapes of labels, classes and probabilities do not go together.
    """
    n = len(labels)
    if n == 0 or probabilities.shape != (n, len(classes)):
        raise ValueError(f"{n} labels and {len(classes)} classes do not go with probabilities of {probabilities.shape}")
    if broken := int((~np.isfinite(probabilities)).any(axis=1).sum()):
        raise WorkError(
            f"the model's probabilities are not numbers for {broken} of {n} images; its training diverged or its file "
            "is damaged, so take another checkpoint"
        )
    sums = probabilities.sum(axis=1)
    wrong = (probabilities < 0).any(axis=1) | (np.abs(sums - 1) > SUM_TOLERANCE)
    if wrong.any():
        row = int(wrong.argmax())
        raise WorkError(
            f"the probabilities of {int(wrong.sum())} of {n} images are no distribution: the first such row has the "
            f"smallest value {probabilities[row].min():.3g} and adds up to {sums[row]:.3g}, not 1; give softmax outputs"
        )


def _macro(labels: NDArray[np.int64], predicted: NDArray[np.int64]) -> tuple[Influence, Influence, Influence]:
    """Macro precision, recall and F1 over the classes that are seen or predicted."""
    return (
        influence.macro_precision_influence(labels, predicted),
        influence.macro_recall_influence(labels, predicted),
        influence.macro_f1_influence(labels, predicted),
    )


def _macro_of(
    labels: NDArray[np.int64], predicted: NDArray[np.int64], known: Sequence[int]
) -> tuple[Influence, Influence, Influence]:
    """Macro precision, recall and F1 over some classes; one without a value enters with 0, as in scikit-learn."""
    nothing = np.zeros(len(labels))
    absent = Influence(0.0, nothing, nothing.astype(bool), 1.0)
    parts = (influence.precision_influence, influence.recall_influence, influence.f1_influence)
    precision, recall, f1 = (
        influence.mean_influence([part(labels, predicted, index) or absent for index in known]) for part in parts
    )
    return precision, recall, f1
