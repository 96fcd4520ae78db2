"""Evaluation report as one HTML page, ``report.html``: style and pictures inside, nothing loaded from a network.

The page is for a reader who doubts: it shows how the images were divided, how wide the interval is, what accuracy a
classifier reaches from the mask alone, and which images the model misclassified with the most confidence.
"""

import base64
import io
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from overlay.evaluation.intervals import Estimate
from overlay.evaluation.report_data import MaskOnly, ReportData

THUMBNAIL_PIXELS = 240
"""longer side: sharp at the 150 CSS pixels that the page shows"""
SIGNIFICANT = 0.05
"""p-value below which two classifiers are said to differ"""


def render_report(data: ReportData) -> str:
    """Return the page as HTML. Every text in it is escaped."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(
        number=_number, interval=_interval, plain=_plain, percent=_percent, png=_png, thumbnail=_thumbnail
    )
    template = files("overlay.evaluation").joinpath("report.html.j2").read_text(encoding="utf-8")
    return environment.from_string(template).render(_context(data))


def _context(data: ReportData) -> dict[str, Any]:
    evaluation = data.evaluation
    largest = max(evaluation.per_class, key=lambda scores: scores.support)
    columns = [sum(row[index] for row in evaluation.confusion) for index in range(len(evaluation.classes))]
    return {
        "data": data,
        "e": evaluation,
        "p": data.protocol,
        "largest": largest,
        "wrong": evaluation.images - sum(row[index] for index, row in enumerate(evaluation.confusion)),
        "undefined": [
            s.name for s, predicted in zip(evaluation.per_class, columns, strict=True) if not s.support * predicted
        ],
        "mask": data.mask_only,
        "reading": _reading(data.mask_only, data.protocol.overlay != "none") if data.mask_only else None,
    }


def _reading(mask: MaskOnly, drawn: bool) -> str:
    """Compare the model with the mask-only baseline in words, by the paired test; ``drawn``: masks are drawn."""
    if not drawn:
        return "The masks are not drawn on these images, so this is what the outline would add, not what the model saw."
    alone = (
        f"The model alone is right on {mask.only_model_right} images, the masks alone on {mask.only_masks_right} "
        f"(p = {mask.p:.2g}, exact group flips test)"
    )
    if mask.p >= SIGNIFICANT:
        return f"{alone}: these images do not show that the model reads more than the masks, nor less."
    if mask.difference.value < 0:
        return f"{alone}: the masks alone tell the classes apart better than this model does."
    gain, low, high = (100 * number for number in (mask.difference.value, mask.difference.low, mask.difference.high))
    return (
        f"{alone}. The model is {gain:.1f} percentage points above ({low:.1f} to {high:.1f}); only so much can have "
        "come from the image, or from finer detail of the outline."
    )


def _number(found: Estimate | None) -> str:
    return "n/a" if found is None else f"{found.value:.3f}"


def _interval(found: Estimate | None) -> str:
    return "" if found is None else f"{found.low:.3f} to {found.high:.3f}"


def _plain(value: float) -> str:
    return f"{value:.3f}"


def _percent(value: float) -> str:
    return f"{100 * value:.1f}\N{NO-BREAK SPACE}%"


def _png(picture: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(picture).decode()}"


def _thumbnail(image: NDArray[np.uint8]) -> str:
    from PIL import Image

    picture = Image.fromarray(image)
    picture.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=90)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
