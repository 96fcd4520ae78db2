"""Charts of an evaluation as inline SVG: confusion matrix, ROC, reliability, share set aside, training curves.

Pure functions from numbers to markup, without JavaScript; hits are blue and errors orange (Okabe & Ito 2008, colours
that colour-blind readers tell apart). ``page.css`` holds the colours of both colour schemes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from overlay.evaluation.reliability import ReliabilityBins
from overlay.evaluation.svg import SERIES, Plot, chart, circle, line, rectangle, round_ticks, text

_SQUARE, _MARGINS = (336.0, 310.0), (12.0, 12.0, 46.0, 54.0)
_UNIT, _TICKS = (0.0, 1.0), (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
_LETTER = 8.0
"""width of a letter in px at the size of labels, on the generous side"""
_LONGEST = 18
"""letters of a class name that are written in full; the tooltip has all of it"""
_MANY_CLASSES = 12
"""above this, empty cells of a confusion matrix are left out"""


@dataclass(frozen=True, eq=False)
class RocCurve:
    """ROC curve of one class against the rest."""

    name: str
    area: float
    false_positive_rate: NDArray[np.float64]
    """(k,) rising from 0 to 1"""
    true_positive_rate: NDArray[np.float64]
    """(k,)"""


@dataclass(frozen=True)
class RocPoint:
    """Operating point on a ROC curve."""

    name: str
    """class whose curve it lies on"""
    threshold: float
    sensitivity: float
    specificity: float


def confusion_chart(classes: Sequence[str], counts: Sequence[Sequence[int]]) -> str:
    """Draw a confusion matrix: rows the true class, columns the predicted one; counts, and shares of the row.

    Hits, on the diagonal, are blue, and errors orange; the stronger, the larger the share of the true class.
    """
    n = len(classes)
    names = [_shorten(name) for name in classes]
    cell = min(84.0, max(22.0, 300 / n))
    longest = _LETTER * max(map(len, names))
    tilted = longest > cell
    left, top = max(longest, 48.0) + 30, 6.0
    width = left + n * cell + 8 + (0.5 * longest if tilted else 0)
    height = top + n * cell + 42 + (0.7 * longest if tilted else 0)
    parts = []
    for row, values in enumerate(counts):
        total = sum(values)
        for column, count in enumerate(values):
            if count or n <= _MANY_CLASSES:
                corner = (left + column * cell, top + row * cell)
                note = f"{classes[row]}, called {classes[column]}: {count} of {total}"
                parts.append(_confusion_cell(corner, cell, row == column, (count, total), note))
        middle = top + (row + 0.5) * cell
        parts.append(text(left - 8, middle + (-1 if cell >= 40 else 4), names[row], "label end"))
        if cell >= 40:
            parts.append(text(left - 8, middle + 14, f"n = {total}", "tick end"))
    for column, name in enumerate(names):
        x, y = left + (column + 0.5) * cell, top + n * cell + 18
        turn = f"rotate(35 {x:.1f} {y:.1f})" if tilted else None
        parts.append(text(x, y, name, "label" if tilted else "label middle", transform=turn))
    centre = top + n * cell / 2
    parts.append(text(left + n * cell / 2, height - 4, "predicted", "title middle"))
    parts.append(text(13, centre, "true", "title middle", transform=f"rotate(-90 13 {centre:.1f})"))
    return chart(width, height, "Confusion matrix, true classes down, predicted classes across", parts)


def roc_chart(curves: Sequence[RocCurve], point: RocPoint | None = None) -> str:
    """Draw the ROC curves of the classes against the rest, with the areas under them, and the operating point.

    Of many classes, those with the largest areas have a colour and a name; the others are thin and grey.
    """
    plot = Plot.create(_SQUARE, _MARGINS, _UNIT, _UNIT)
    frame = plot.frame("1 - specificity", "sensitivity", _TICKS, _TICKS)
    parts = [frame, plot.polyline(_UNIT, _UNIT, "line chance")]
    ranked = sorted(curves, key=lambda curve: -curve.area) if len(curves) > SERIES else list(curves)
    named = ranked[:SERIES]
    parts += [
        plot.polyline(curve.false_positive_rate, curve.true_positive_rate, "line other") for curve in ranked[SERIES:]
    ]
    for index, curve in enumerate(named):
        parts.append(plot.polyline(curve.false_positive_rate, curve.true_positive_rate, f"line series-{index}"))
    entries = [(f"{_shorten(curve.name)} {curve.area:.3f}", f"series-{index}") for index, curve in enumerate(named)]
    if len(ranked) > SERIES:
        entries.append((f"{len(ranked) - SERIES} more", "other"))
    if point is not None:
        note = (
            f"{point.name} at {point.threshold:.3f}: sensitivity {point.sensitivity:.3f}, "
            f"specificity {point.specificity:.3f}"
        )
        parts.append(plot.dot(1 - point.specificity, point.sensitivity, 5.5, "operating", note))
        entries.append((f"{_shorten(point.name)} from {point.threshold:.2f} on", "operating"))
    parts.append(_legend(plot, entries, "lower right"))
    return chart(*_SQUARE, "ROC curve of each class against the rest", parts)


def reliability_chart(before: ReliabilityBins | None, after: ReliabilityBins) -> str:
    """Draw a reliability diagram: accuracy against mean confidence in bins, before and after the temperature.

    The area of a dot is proportional to the images of its bin; a perfectly calibrated classifier lies on the diagonal.
    ``before``: None where no temperature was fitted.
    """
    plot = Plot.create(_SQUARE, _MARGINS, _UNIT, _UNIT)
    frame = plot.frame("mean confidence", "accuracy", _TICKS, _TICKS)
    parts = [frame, plot.polyline(_UNIT, _UNIT, "line chance")]
    layers = [("before", before, "before")] if before is not None else []
    layers.append(("after" if before is not None else "", after, "after"))
    for name, bins, kind in layers:
        filled = np.flatnonzero(bins.images)
        parts.append(plot.polyline(bins.confidence[filled], bins.accuracy[filled], f"line {kind}"))
        for place in filled.tolist():
            images, confidence, accuracy = int(bins.images[place]), bins.confidence[place], bins.accuracy[place]
            note = f"{name} {images} images: confidence {confidence:.3f}, accuracy {accuracy:.3f}".strip()
            radius = 2.5 + 7.5 * float(np.sqrt(images / bins.images.sum()))
            parts.append(plot.dot(confidence, accuracy, radius, f"bin {kind}", note))
    if before is not None:
        parts.append(_legend(plot, [("before the temperature", "before"), ("after", "after")], "upper left"))
    return chart(*_SQUARE, "Reliability diagram: accuracy against mean confidence", parts)


def deferral_chart(
    share: NDArray[np.float64], accuracy: NDArray[np.float64], mark: tuple[float, float] | None = None
) -> str:
    """Draw the accuracy of the remaining images against the share set aside as least sure (accuracy-rejection curve).

    Nadeem, Zucker & Hanczar 2009, Proc. Mach. Learn. Res. 8:65.

    Args:
        share: (k,) rising, of all images.
        accuracy: (k,) of the images that remain.
        mark: share and accuracy at the model's own threshold of uncertainty.
    """
    low = min(0.9, float(np.floor(10 * np.min(accuracy)) / 10))
    plot = Plot.create(_SQUARE, _MARGINS, _UNIT, (low, 1.0))
    frame = plot.frame("share set aside as least sure", "accuracy of the rest", _TICKS, round_ticks(low, 1.0))
    parts = [frame, plot.polyline(_UNIT, (accuracy[0], accuracy[0]), "line chance")]
    parts.append(plot.polyline(share, accuracy, "line series-0"))
    if mark is not None:
        note = f"uncertain: {mark[0]:.1%} of the images; accuracy of the rest {mark[1]:.3f}"
        parts.append(plot.dot(*mark, 5.5, "operating", note))
        parts.append(_legend(plot, [("the model's threshold", "operating")], "upper left"))
    return chart(*_SQUARE, "Accuracy of the rest against the share of images set aside", parts)


def training_chart(history: Mapping[str, Sequence[float]], best_epoch: int | None, *, loss: bool) -> str:
    """Draw training curves over the epochs: the losses, or the accuracies and the macro-F1 of validation.

    Args:
        history: the columns of ``history.parquet``, at least one epoch long; values that are no number are left out.
        best_epoch: value of the column ``epoch`` whose weights were kept; marked.
        loss: whether to draw the losses.
    """
    columns = (
        [("train loss", "train_loss"), ("val loss", "val_loss")]
        if loss
        else [("train accuracy", "train_accuracy"), ("val accuracy", "val_accuracy"), ("val macro-F1", "val_macro_f1")]
    )
    epochs = np.asarray(history["epoch"], np.float64)
    series = [(name, np.asarray(history[column], np.float64)) for name, column in columns]
    top = 1.05 * max(float(values[np.isfinite(values)].max(initial=1e-3)) for _, values in series) if loss else 1.0
    plot = Plot.create((460.0, 250.0), _MARGINS, (float(epochs[0]) - 0.3, float(epochs[-1]) + 0.3), (0.0, top))
    steps = [tick for tick in round_ticks(*_value_range(epochs), most=8) if tick == int(tick)]
    parts = [plot.frame("epoch", "loss in nats" if loss else "share", steps, round_ticks(0.0, top))]
    if best_epoch is not None:
        parts.append(line(plot.x(best_epoch), plot.y.start, plot.x(best_epoch), plot.y.end, "line chance"))
    for index, (name, values) in enumerate(series):
        known = np.isfinite(values)
        parts.append(plot.polyline(epochs[known], values[known], f"line series-{index}"))
        if len(epochs) <= 30:
            dots = zip(epochs[known].tolist(), values[known].tolist(), strict=True)
            parts += [plot.dot(x, y, 3, f"series-{index}", f"{name}, epoch {x:g}: {y:.3f}") for x, y in dots]
    entries = [(name, f"series-{index}") for index, (name, _) in enumerate(series)]
    if best_epoch is not None:
        entries.append((f"best epoch, {best_epoch}", "chance"))
    parts.append(_legend(plot, entries, "upper right" if loss else "lower right"))
    return chart(460, 250, "Losses over the epochs" if loss else "Accuracy and macro-F1 over the epochs", parts)


def _value_range(values: NDArray[np.float64]) -> tuple[float, float]:
    """Return the smallest and the largest value, one apart where they are equal."""
    low, high = float(values.min()), float(values.max())
    return (low, high) if high > low else (low, low + 1)


def _confusion_cell(
    corner: tuple[float, float], cell: float, hit: bool, count_and_total: tuple[int, int], note: str
) -> str:
    count, total = count_and_total
    share = count / total if total else 0.0
    kind = "cell empty" if count == 0 else "cell hit" if hit else "cell miss"
    opacity = 1.0 if count == 0 else 0.12 + 0.6 * share
    centre, middle = corner[0] + cell / 2, corner[1] + cell / 2
    parts = [rectangle((corner[0] + 1, corner[1] + 1), (cell - 2, cell - 2), kind, note, opacity)]
    faint = " faint" if count == 0 else ""
    if cell >= 40:
        parts.append(text(centre, middle, f"{count}", f"count middle{faint}"))
        parts.append(text(centre, middle + 16, f"{share:.0%}" if total else "n/a", f"tick middle{faint}"))
    elif count:
        parts.append(text(centre, middle + 4, f"{count}", "tick middle inked"))
    return "".join(parts)


def _legend(
    plot: Plot, entries: Sequence[tuple[str, str]], corner: Literal["lower right", "upper right", "upper left"]
) -> str:
    """Entries (text, class) in a corner of a plot, on a ground that hides the grid."""
    width = 30 + 6.4 * max(len(name) for name, _ in entries)
    height = 17.0 * len(entries) + 6
    left = plot.x.start + 2 if corner == "upper left" else plot.x.end - width - 2
    top = plot.y.start - height - 4 if corner == "lower right" else plot.y.end + 2
    parts = [rectangle((left, top), (width, height), "ground", opacity=0.85)]
    for index, (name, kind) in enumerate(entries):
        y = top + 14 + 17 * index
        if kind in ("operating", "before", "after"):
            parts.append(circle(left + 12, y - 4, 4.5, f"bin {kind}" if kind != "operating" else kind))
        else:
            parts.append(line(left + 4, y - 4, left + 20, y - 4, f"line {kind}"))
        parts.append(text(left + 26, y, name, "tick inked"))
    return "".join(parts)


def _shorten(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}\N{HORIZONTAL ELLIPSIS}"
