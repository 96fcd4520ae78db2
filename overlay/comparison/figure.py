"""Picture of a comparison, comparison.png: each candidate's metric, and its difference to the reference."""

import io
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from overlay.comparison.differences import MetricDifference
from overlay.comparison.folder import ComparisonRequest
from overlay.comparison.lines import METRIC_WORDS, CandidateLine
from overlay.evaluation.figures import BLUE, GREY, ORANGE

_Interval = tuple[str, float, float, float, str]
"""name, value, low, high, colour"""


def draw_comparison(
    lines: Sequence[CandidateLine], differences: Sequence[MetricDifference], request: ComparisonRequest
) -> bytes:
    """Draw the metric of the verdict with 95 % intervals (left) and its paired differences (right), as PNG."""
    metric = METRIC_WORDS[request.metric]
    values = [(line.candidate, line.estimate.value, line.estimate.low, line.estimate.high, BLUE) for line in lines]
    apart = [
        (row.candidate, row.difference, row.low, row.high, _colour(row))
        for row in differences
        if row.metric == request.metric
    ]
    figure = Figure(figsize=(11, 1.4 + 0.45 * len(lines)), dpi=150, layout="constrained", facecolor="white")
    left, right = figure.subplots(1, 2)
    _draw_intervals(left, values, f"{metric}, 95 % interval")
    right.axvline(0, color=GREY, linewidth=1)
    _draw_intervals(right, apart, f"difference in {metric} to {request.reference}")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _colour(row: MetricDifference) -> str:
    if row.low <= 0 <= row.high:
        return GREY
    return BLUE if row.is_better else ORANGE


def _draw_intervals(axes: Axes, rows: Sequence[_Interval], title: str) -> None:
    for height, (_, value, low, high, colour) in enumerate(rows):
        axes.plot([low, high], [height, height], color=colour, linewidth=2)
        axes.plot([value], [height], "o", color=colour, markersize=7)
    names = [name.replace("$", r"\$") for name, *_ in rows]
    axes.set_yticks(range(len(rows)), names)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(axis="x", color="#e5e7eb", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_title(title, loc="left", fontweight="bold")
