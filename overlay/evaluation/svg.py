"""SVG building blocks for charts: elements with escaped text, linear scales with round ticks, a plot with two axes.

Colours are classes of ``page.css`` (``hit``, ``miss``, ``series-0``), whose CSS variables follow a dark colour scheme.
Coordinates are CSS pixels from the upper left corner, written with at most one decimal.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

SERIES = 7
"""number of colours of series, ``series-0`` to ``series-6``"""


@dataclass(frozen=True)
class Scale:
    """Linear map of values from ``low`` to ``high`` onto coordinates from ``start`` to ``end``."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Return the coordinate of a value; the middle where the range of values is empty."""
        span = self.high - self.low
        share = (value - self.low) / span if span else 0.5
        return self.start + share * (self.end - self.start)


@dataclass(frozen=True)
class Plot:
    """Plot area of a chart between margins, with a scale on each axis."""

    width: float
    height: float
    x: Scale
    y: Scale

    @classmethod
    def create(
        cls,
        size: tuple[float, float],
        margins: tuple[float, float, float, float],
        x: tuple[float, float],
        y: tuple[float, float],
    ) -> "Plot":
        """Create a plot of ``size`` (width, height), with margins (top, right, bottom, left) and ranges of values."""
        (width, height), (top, right, bottom, left) = size, margins
        return cls(width, height, Scale(*x, left, width - right), Scale(*y, height - bottom, top))

    def frame(self, x_title: str, y_title: str, x_ticks: Sequence[float], y_ticks: Sequence[float]) -> str:
        """Return grid lines, tick labels and titles of both axes."""
        left, right, bottom, top = self.x.start, self.x.end, self.y.start, self.y.end
        parts = [line(left, self.y(tick), right, self.y(tick), "grid") for tick in y_ticks]
        parts += [line(self.x(tick), bottom, self.x(tick), bottom + 4, "axis") for tick in x_ticks]
        parts.append(line(left, bottom, right, bottom, "axis"))
        parts += [text(self.x(tick), bottom + 17, f"{tick:g}", "tick middle") for tick in x_ticks]
        parts += [text(left - 7, self.y(tick) + 4, f"{tick:g}", "tick end") for tick in y_ticks]
        parts.append(text((left + right) / 2, self.height - 4, x_title, "title middle"))
        turned = f"rotate(-90 13 {coordinate((top + bottom) / 2)})"
        parts.append(text(13, (top + bottom) / 2, y_title, "title middle", transform=turned))
        return "".join(parts)

    def polyline(self, xs: Iterable[float], ys: Iterable[float], kind: str) -> str:
        """Return a line through points given as values; points that fall on one pixel are written once."""
        return polyline(((self.x(x), self.y(y)) for x, y in zip(xs, ys, strict=True)), kind)

    def dot(self, x: float, y: float, radius: float, kind: str, note: str = "") -> str:
        """Return a filled circle at a point given as values, with a tooltip."""
        return circle(self.x(x), self.y(y), radius, kind, note)


def chart(width: float, height: float, label: str, parts: Iterable[str]) -> str:
    """Return an ``svg`` element that shrinks with its column; ``label`` describes it to a screen reader."""
    return element(
        "svg",
        "".join(parts),
        class_="chart",
        viewBox=f"0 0 {coordinate(width)} {coordinate(height)}",
        style=f"max-width:{coordinate(width)}px",
        role="img",
        aria_label=label,
    )


def element(name: str, content: str = "", **attributes: str | float | None) -> str:
    """Return an element; ``content`` is markup, attributes are escaped, and one that is None is left out.

    A trailing underscore of an attribute is dropped, any other becomes a hyphen: ``class_``, ``aria_label``.
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(value if isinstance(value, str) else coordinate(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return f"<{name}{written}>{content}</{name}>" if content else f"<{name}{written}/>"


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    """Return a straight line."""
    return element("line", class_=kind, x1=x1, y1=y1, x2=x2, y2=y2)


def text(x: float, y: float, content: str, kind: str, transform: str | None = None) -> str:
    """Return a text whose baseline is at ``y``; the classes ``middle`` and ``end`` of ``page.css`` anchor it."""
    return element("text", escape(content), class_=kind, x=x, y=y, transform=transform)


def circle(x: float, y: float, radius: float, kind: str, note: str = "") -> str:
    """Return a circle with a tooltip."""
    return element("circle", tooltip(note), class_=kind, cx=x, cy=y, r=radius)


def rectangle(
    corner: tuple[float, float], size: tuple[float, float], kind: str, note: str = "", opacity: float = 1
) -> str:
    """Return a rectangle from its upper left corner and (width, height), with the opacity of its fill and a tooltip."""
    shade = None if opacity == 1 else f"{opacity:.2f}"
    return element(
        "rect", tooltip(note), class_=kind, x=corner[0], y=corner[1], width=size[0], height=size[1], fill_opacity=shade
    )


def polyline(points: Iterable[tuple[float, float]], kind: str) -> str:
    """Return a line through points; consecutive points with the same written coordinates are written once."""
    written: list[str] = []
    for x, y in points:
        point = f"{coordinate(x)},{coordinate(y)}"
        if not written or written[-1] != point:
            written.append(point)
    return element("polyline", class_=kind, points=" ".join(written))


def tooltip(note: str) -> str:
    """Return a ``title`` element, which browsers show under the pointer; nothing for an empty note."""
    return element("title", escape(note)) if note else ""


def round_ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Return at most ``most`` + 1 ticks at multiples of 1, 2 or 5 times a power of ten, within the range."""
    from matplotlib.ticker import MaxNLocator

    ticks = MaxNLocator(nbins=most, steps=[1, 2, 5, 10]).tick_values(low, high)
    span = high - low
    # Adding 0.0 turns a negative zero, which would be written "-0", into zero.
    return [round(float(tick), 12) + 0.0 for tick in ticks if low - 1e-9 * span <= tick <= high + 1e-9 * span]


def coordinate(value: float) -> str:
    """Return a coordinate with at most one decimal: 12, 12.5."""
    return f"{round(float(value), 1) + 0.0:.1f}".removesuffix(".0")
