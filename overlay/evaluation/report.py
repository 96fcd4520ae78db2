"""Evaluation report as one HTML page, ``report.html``: style and pictures inside, nothing loaded from a network.

The page is for a reader who doubts: it shows how the images were divided, how wide the interval is, what accuracy a
classifier reaches from the mask alone, and which images the model misclassified with the most confidence.
"""

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from overlay.evaluation.metrics import Evaluation

THUMBNAIL_PIXELS = 240
"""longer side: sharp at the 150 CSS pixels that the page shows"""


@dataclass(frozen=True)
class Protocol:
    """Evaluation protocol: the model, the dataset, and its division into splits."""

    model_file: str
    model_sha256: str
    arch: str
    image_size: int
    """side in pixels of the square that the model saw"""
    resize: str
    """the resize rule: squash, pad or crop"""
    dataset: str
    """the dataset's name or place"""
    fingerprint: str
    """of the dataset's contents"""
    split: str
    """the split that was evaluated"""
    split_rule: str
    """rule of division in words, to follow "Divided": "at random, near-duplicates kept together" """
    split_images: Mapping[str, int]
    """split -> number of images"""
    overlay: str
    """the overlay style in words: "fill, #ff3b30, opacity 0.35"; "none" """
    versions: Mapping[str, str]
    """name of a package -> its version"""
    date: str | None = None
    """date of the evaluation; without it the page is the same to the byte for the same evaluation"""


@dataclass(frozen=True)
class MaskOnly:
    """Mask-only baseline: scores on this split from the numbers of the masks alone (``metrics.mask_only_scores``)."""

    accuracy: float
    macro_f1: float
    numbers: tuple[str, ...]
    """the numbers in words, such as "area share" """


@dataclass(frozen=True)
class Mistake:
    """A misclassified image."""

    id: str
    label: str
    predicted: str
    confidence: float
    image: NDArray[np.uint8]
    """(height, width, 3), of any size"""


@dataclass(frozen=True)
class ReportData:
    """Content of the page. Pictures are PNG bytes from ``overlay.evaluation.figures``; one that is None is left out."""

    title: str
    evaluation: Evaluation
    protocol: Protocol
    confusion_png: bytes
    roc_png: bytes | None = None
    curves_png: bytes | None = None
    mask_only: MaskOnly | None = None
    mistakes: tuple[Mistake, ...] = field(default=())
    """the most confident first, as ``metrics.worst_mistakes`` orders them"""


def render_report(data: ReportData) -> str:
    """Return the page as HTML. Every text in it is escaped."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(number=_number, percent=_percent, png=_png, thumbnail=_thumbnail)
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
        "reading": _reading(evaluation, data.mask_only, data.protocol.overlay != "none") if data.mask_only else None,
    }


def _reading(evaluation: Evaluation, mask: MaskOnly, drawn: bool) -> str:
    """Compare the model with the mask-only baseline in one sentence; ``drawn``: masks are drawn on the images."""
    if not drawn:
        return "The masks are not drawn on these images, so this is what the outline would add, not what the model saw."
    low, high = evaluation.accuracy_interval
    if mask.accuracy > high:
        return "This model stays below that: the masks alone tell the classes apart better than it does."
    if mask.accuracy >= low:
        return "That lies inside this model's interval, so these images do not show that it reads more than the masks."
    gain = 100 * (evaluation.accuracy - mask.accuracy)
    return (
        f"This model is {gain:.1f} percentage points above that; only so much can have come from the image, or from "
        "finer detail of the outline."
    )


def _number(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3f}"


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
