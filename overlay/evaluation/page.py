"""HTML pages of an evaluation and of a comparison: template environment, number formats, pictures as data URIs.

A page is one file with style and pictures inside: nothing is loaded from a network, and no script runs.
"""

import base64
import io
from collections.abc import Mapping
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

from overlay.evaluation.intervals import Estimate, PairedDifference
from overlay.evaluation.row_charts import interval_bar

SIGNIFICANT = 0.05
"""p-value below which two classifiers are said to differ"""


def render_page(template: str, context: Mapping[str, object]) -> str:
    """Return a page from a template of this package and ``page.css``. Every text is escaped; `Markup` is not."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("overlay", "evaluation"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        number=number,
        interval=interval,
        plain=plain,
        percent=percent,
        p=p_text,
        signed=signed,
        picture=picture,
        bar=lambda found: Markup(interval_bar(found.value, found.low, found.high)),
    )
    style = files("overlay.evaluation").joinpath("page.css").read_text(encoding="utf-8")
    return environment.get_template(template).render({"style": Markup(style), **context})


def number(found: Estimate | PairedDifference | None) -> str:
    """Return the value of a metric, "0.640"; a dash where it is not defined."""
    return "\N{EN DASH}" if found is None else f"{found.value:.3f}"


def interval(found: Estimate | None) -> str:
    """Return the interval of a metric, "0.501 to 0.760"; nothing where it is not defined."""
    return "" if found is None else f"{found.low:.3f} to {found.high:.3f}"


def signed(value: float) -> str:
    """Return a difference with its sign, "+0.020", the minus as U+2212."""
    return f"{value:+.3f}".replace("-", "\N{MINUS SIGN}") if abs(value) >= 0.0005 else "0.000"


def plain(value: float) -> str:
    """Return a number with three decimals."""
    return f"{value:.3f}"


def percent(value: float) -> str:
    """Return a share in percent with one decimal, "64.0 %"."""
    return f"{100 * value:.1f}\N{NO-BREAK SPACE}%"


def p_text(p: float) -> str:
    """Return a p-value: "0.041", two decimals from 0.1 on, "< 0.001"."""
    if p < 0.001:
        return "<\N{NO-BREAK SPACE}0.001"
    return f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def p_equation(p: float) -> str:
    """Return a p-value with its sign: "= 0.041", "< 0.001"."""
    return p_text(p) if p < 0.001 else f"= {p_text(p)}"


def picture(image: NDArray[np.uint8]) -> str:
    """Return an image, (height, width, 3), as the data URI of a JPEG file."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="JPEG", quality=88)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
