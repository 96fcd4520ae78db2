"""Charts with a row a candidate: forest plot of differences, dots of folds, bar of one interval.

Rows of an HTML table whose strips are SVG with positions in percent, so that dots stay round and text keeps its size at
any width of the page. A screen reader, and a copy of the text, gets the numbers.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from overlay.evaluation.svg import Scale, element, round_ticks, tooltip

_HEIGHT = 32.0


@dataclass(frozen=True)
class ForestRow:
    """Difference of a candidate to the reference, with its 95 % interval."""

    name: str
    difference: float
    low: float
    high: float
    note: str = ""
    """text of the last column, such as "p = 0.03" """


@dataclass(frozen=True)
class FoldRow:
    """Metric of a candidate in each fold."""

    name: str
    values: Sequence[float | None]
    """in the order of the folds, or of folds and seeds; None for a run that failed"""
    mean: float
    note: str = ""


def forest_chart(rows: Sequence[ForestRow], metric: str, reference: str, *, lower_is_better: bool = False) -> str:
    """Draw a forest plot: a row a candidate with its difference to the reference, its interval and a note.

    An interval on the better side of 0 is blue, one on the worse side orange, and one that holds 0 grey.
    """
    across = _percent_scale([0.0, *(row.low for row in rows), *(row.high for row in rows)])
    body = []
    for row in rows:
        is_better = row.high < 0 if lower_is_better else row.low > 0
        kind = "open" if row.low <= 0 <= row.high else "hit" if is_better else "miss"
        marks = [_vertical(across(0), "axis"), _interval(across, row.low, row.high, kind)]
        marks.append(_dot(across(row.difference), _HEIGHT / 2, 5, kind))
        numbers = f"{_signed(row.difference)} ({_signed(row.low)} to {_signed(row.high)})"
        body.append(_row(row.name, _strip(marks), numbers, row.note))
    better = "; lower is better" if lower_is_better else ""
    return _table(body, _axis(across), f"difference in {metric} to {reference}{better}")


def fold_chart(rows: Sequence[FoldRow], metric: str) -> str:
    """Draw a dot a fold: a row a candidate, folds from top to bottom in their order, and a stroke at the mean."""
    known = [value for row in rows for value in (*row.values, row.mean) if value is not None]
    across = _percent_scale(known)
    body = []
    for row in rows:
        step = (_HEIGHT - 14) / max(len(row.values) - 1, 1)
        marks = [_vertical(across(row.mean), "mean")]
        marks += [
            _dot(
                across(value),
                7 + step * fold if len(row.values) > 1 else _HEIGHT / 2,
                4,
                "fold",
                f"{fold}: {value:.3f}",
            )
            for fold, value in enumerate(row.values)
            if value is not None
        ]
        body.append(_row(row.name, _strip(marks), f"{row.mean:.3f}", row.note))
    return _table(
        body, _axis(across), f"{metric} of each fold, from top to bottom in their order; the stroke is the mean"
    )


def interval_bar(value: float, low: float, high: float, limits: tuple[float, float] = (0.0, 1.0)) -> str:
    """Draw one value with its interval on a line from the smallest to the largest possible value."""
    across = Scale(*limits, 1.0, 99.0)
    marks = [
        _horizontal(1.0, 99.0, 5.0, "axis"),
        _interval(across, low, high, "hit", 5.0),
        _dot(across(value), 5.0, 4, "hit"),
    ]
    return _strip(marks, 10.0)


def _percent_scale(values: Sequence[float]) -> Scale:
    low, high = min(values), max(values)
    space = 0.06 * (high - low) or 0.05
    return Scale(low - space, high + space, 0.0, 100.0)


def _axis(across: Scale) -> str:
    ticks = round_ticks(across.low, across.high)
    marks = [_horizontal(0, 100, 0.5, "axis")]
    for tick in ticks:
        marks.append(
            element("line", class_="axis", x1=_percent(across(tick)), x2=_percent(across(tick)), y1=0.0, y2=4.0)
        )
        # A label at the very end of the strip would be cut off.
        if 4 <= across(tick) <= 96:
            marks.append(element("text", f"{tick:g}", class_="tick middle", x=_percent(across(tick)), y=17.0))
    return _strip(marks, 20.0)


def _strip(marks: Iterable[str], height: float = _HEIGHT) -> str:
    return element("svg", "".join(marks), class_="chart strip", width="100%", height=height, aria_hidden="true")


def _row(name: str, strip: str, numbers: str, note: str) -> str:
    cells = f'<th scope="row">{escape(name)}</th><td class="plot">{strip}</td><td>{escape(numbers)}</td>'
    return f"<tr>{cells}<td>{escape(note)}</td></tr>"


def _table(body: Sequence[str], axis: str, caption: str) -> str:
    foot = f'<tr><th></th><td class="plot">{axis}</td><td></td><td></td></tr>'
    return (
        f'<table class="rows"><caption>{escape(caption)}</caption><tbody>{"".join(body)}</tbody>'
        f"<tfoot>{foot}</tfoot></table>"
    )


def _interval(across: Scale, low: float, high: float, kind: str, y: float = _HEIGHT / 2) -> str:
    return _horizontal(across(low), across(high), y, f"interval {kind}")


def _horizontal(start: float, end: float, y: float, kind: str) -> str:
    return element("line", class_=kind, x1=_percent(start), x2=_percent(end), y1=y, y2=y)


def _vertical(x: float, kind: str) -> str:
    return element("line", class_=kind, x1=_percent(x), x2=_percent(x), y1=0.0, y2="100%")


def _dot(x: float, y: float, radius: float, kind: str, note: str = "") -> str:
    return element("circle", tooltip(note), class_=kind, cx=_percent(x), cy=y, r=radius)


def _percent(share: float) -> str:
    return f"{share:.2f}%"


def _signed(value: float) -> str:
    return f"{round(value, 3) + 0.0:+.3f}".replace("-", "\N{MINUS SIGN}")
