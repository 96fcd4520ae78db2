"""Figures of a run and of an evaluation as PNG bytes: training curves, confusion matrix.

Drawn with matplotlib's object-oriented API on a light background, in colours that colour-blind readers tell apart
(Okabe & Ito 2008). No pyplot, so nothing global is touched and any thread or process may draw.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from overlay.evaluation.estimates import Evaluation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#6b7280"
MANY_CLASSES = 12
"""above this, the empty cells of a confusion matrix are not labelled"""


def draw_curves(history: Mapping[str, Sequence[float]], best_epoch: int | None = None) -> bytes:
    """Draw training curves: loss (left), accuracy and macro-F1 (right) over the epochs.

    Args:
        history: the columns of ``history.parquet``, at least one epoch long.
        best_epoch: value of the column ``epoch`` whose weights were kept; marked in both panels.
    """
    epochs = list(history["epoch"])
    figure = _figure(10, 4)
    left, right = figure.subplots(1, 2)
    _lines(left, history, [("train", "train_loss", BLUE), ("val", "val_loss", ORANGE)])
    left.set_title("Loss", loc="left", fontweight="bold")
    losses = np.array([history["train_loss"], history["val_loss"]], dtype=np.float64)
    left.set_ylim(0, 1.08 * float(losses[np.isfinite(losses)].max(initial=1e-3)))
    lines = [("train accuracy", "train_accuracy", BLUE), ("val accuracy", "val_accuracy", ORANGE)]
    _lines(right, history, [*lines, ("val macro-F1", "val_macro_f1", GREEN)])
    right.set_title("Accuracy and macro-F1", loc="left", fontweight="bold")
    right.set_ylim(0, 1.03)
    for axes, column in ((left, "val_loss"), (right, "val_accuracy")):
        _plain(axes)
        axes.set_xlabel("epoch")
        axes.set_xlim(epochs[0] - 0.5, epochs[-1] + 0.5)
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        if best_epoch is not None:
            axes.axvline(best_epoch, color=GREY, linewidth=1, linestyle=":", zorder=1)
            best = history[column][epochs.index(best_epoch)]
            ring = {"markersize": 11, "markerfacecolor": "none", "markeredgecolor": "#111827", "linestyle": "none"}
            axes.plot([best_epoch], [best], "o", label=f"best epoch, {best_epoch}", **ring)
        axes.legend(frameon=False)
    return _png(figure)


def draw_confusion_matrix(evaluation: Evaluation) -> bytes:
    """Draw the confusion matrix: counts and shares of the row, rows the true class, columns the predicted.

    Hits, on the diagonal, are blue, and errors orange.
    """
    from matplotlib.colors import to_rgb

    counts = np.array(evaluation.confusion)
    support = counts.sum(axis=1, keepdims=True)
    share = counts / np.maximum(support, 1)
    n = len(counts)
    side = min(1.15 * n, 16.0)
    figure = _figure(side + 2.2, side + 1.6)
    axes = figure.subplots()
    colours = np.where(np.eye(n, dtype=bool)[..., None], to_rgb(BLUE), to_rgb(ORANGE))
    axes.imshow(np.rint(255 - share[..., None] * (255 - 255 * colours)).astype(np.uint8))
    size = 14 * side / (1.15 * n)
    # Of many classes only the cells that hold something are written: the rest would be noise, and slow to draw.
    for row, column in np.argwhere(counts > 0) if n > MANY_CLASSES else np.ndindex(counts.shape):
        colour = "white" if share[row, column] > 0.55 else "#111827"
        percent = f"{share[row, column]:.0%}" if support[row, 0] else "n/a"
        centre: dict[str, Any] = {"ha": "center", "color": colour, "in_layout": False}
        axes.text(column, row, str(counts[row, column]), va="bottom", fontsize=size, fontweight="bold", **centre)
        axes.text(column, row + 0.08, percent, va="top", fontsize=size * 0.7, **centre)
    names = [_text(name) for name in evaluation.classes]
    tilted = max(map(len, names)) > 10
    axes.set_xticks(range(n), names, rotation=35 if tilted else 0, ha="right" if tilted else "center")
    axes.set_yticks(range(n), [f"{name}\nn = {total}" for name, total in zip(names, support[:, 0], strict=True)])
    axes.tick_params(length=0)
    axes.set_xticks(np.arange(n - 1) + 0.5, minor=True)
    axes.set_yticks(np.arange(n - 1) + 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=2)
    axes.tick_params(which="minor", length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("predicted", fontweight="bold", labelpad=8)
    axes.set_ylabel("true", fontweight="bold", labelpad=8)
    axes.set_title("Images, and share of the true class", loc="left", fontsize=10, color=GREY)
    return _png(figure)


def _lines(axes: Axes, history: Mapping[str, Sequence[float]], lines: list[tuple[str, str, str]]) -> None:
    epochs = history["epoch"]
    marker = "o" if len(epochs) <= 30 else None
    for (label, column, colour), dashes in zip(lines, ("-", "-", "--"), strict=False):
        axes.plot(
            epochs,
            history[column],
            color=colour,
            linestyle=dashes,
            marker=marker,
            markersize=3.5,
            linewidth=1.6,
            label=label,
        )


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=150, layout="constrained", facecolor="white")


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e5e7eb", linewidth=0.8)
    axes.set_axisbelow(True)


def _text(name: str) -> str:
    """Escape the dollar sign in a class name, which matplotlib would read as the start of a formula."""
    return name.replace("$", r"\$")


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
