"""Page of a comparison, ``report.html``: verdict, forest plot, table, folds, mistakes, label doubts, protocol."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from markupsafe import Markup
from PIL import Image

from overlay import __version__
from overlay.comparison.answers import LOWER_IS_BETTER, Answers, ComparedImages
from overlay.comparison.differences import MetricDifference
from overlay.comparison.folder import ComparisonRequest
from overlay.comparison.lines import METRIC_WORDS, CandidateLine
from overlay.config import COMPARISON_METRICS
from overlay.dataset.prepared import PreparedDataset
from overlay.evaluation.dataset_images import read_encoded
from overlay.evaluation.page import p_equation, render_page
from overlay.evaluation.page import picture as picture_uri
from overlay.evaluation.row_charts import FoldRow, ForestRow, fold_chart, forest_chart
from overlay.images.codec import decode_image

THUMBNAIL = 200
"""longer side of a picture in pixels"""
MOST_PICTURES = 12


@dataclass(frozen=True)
class ComparisonPage:
    """Content of the page."""

    title: str
    verdict: str
    request: ComparisonRequest
    dataset: PreparedDataset
    lines: Sequence[CandidateLine]
    differences: Sequence[MetricDifference]
    chosen: str | None
    """candidate that validation chose"""
    alarms: Sequence[str]
    """what makes the numbers doubtful or incomplete"""
    images: ComparedImages
    answers: Mapping[str, Answers]
    doubts: pa.Table


@dataclass(frozen=True)
class PicturedImage:
    """An image on the page, with words below it."""

    id: str
    words: str
    badge: str | None
    picture: str
    """data address of a JPEG"""


def render_comparison(page: ComparisonPage) -> str:
    """Return the page as HTML, with its style and pictures inside. Every text in it is escaped."""
    all_missed = _missed_ids(page)
    missed = all_missed[:MOST_PICTURES]
    doubted = page.doubts.slice(0, MOST_PICTURES).to_pylist()
    pictures = _pictures(page.dataset, [*missed, *(row["id"] for row in doubted)])
    return render_page(
        "comparison.html.j2",
        {
            "page": page,
            "version": __version__,
            "words": METRIC_WORDS,
            "metrics": [name for name in COMPARISON_METRICS if name in page.lines[0].estimates],
            "forest": Markup(_forest(page)),
            "folds": Markup(_folds(page)) if page.request.folds else None,
            "pairs": [row for row in page.differences if row.metric == page.request.metric],
            "missed": [PicturedImage(id, _missed_words(page, id), None, pictures[id]) for id in missed],
            "missed_count": len(all_missed),
            "doubted": [
                PicturedImage(
                    row["id"],
                    f"labelled {row['label']} ({row['prob_label']:.0%}), looks like {row['suggested']} "
                    f"({row['prob_suggested']:.0%})",
                    row["near_duplicate_label"] and f"near-duplicate is {row['near_duplicate_label']}",
                    pictures[row["id"]],
                )
                for row in doubted
            ],
        },
    )


def _forest(page: ComparisonPage) -> str:
    rows = [
        ForestRow(row.candidate, row.difference, row.low, row.high, f"p {p_equation(row.p_holm)}")
        for row in page.differences
        if row.metric == page.request.metric
    ]
    metric = page.request.metric
    return forest_chart(rows, METRIC_WORDS[metric], page.request.reference, lower_is_better=metric in LOWER_IS_BETTER)


def _folds(page: ComparisonPage) -> str:
    rows = [
        FoldRow(
            line.candidate,
            [None if np.isnan(value) else value for value in line.per_training],
            float(np.nanmean(line.per_training)),
        )
        for line in page.lines
    ]
    return fold_chart(rows, METRIC_WORDS[page.request.metric])


def _missed_ids(page: ComparisonPage) -> list[str]:
    """Return the images that no candidate classifies correctly with any seed, the surest mistakes first."""
    wrong = np.all([each.predicted != page.images.labels for each in page.answers.values()], axis=0)
    confidence = np.mean([each.probabilities.max(axis=1) for each in page.answers.values()], axis=0)
    ids = page.images.ids
    right_once = set(ids[~wrong].tolist())
    order = np.argsort(-confidence, kind="stable")
    return list(dict.fromkeys(id for id in ids[order].tolist() if id not in right_once))


def _missed_words(page: ComparisonPage, id: str) -> str:
    row = int(np.flatnonzero(page.images.ids == id)[0])
    names = page.images.classes
    called = sorted({names[each.predicted[row]] for each in page.answers.values()})
    return f"{names[page.images.labels[row]]}, called {' or '.join(called)}"


def _pictures(dataset: PreparedDataset, ids: Sequence[str]) -> dict[str, str]:
    encoded = read_encoded(dataset, sorted(set(ids)))
    max_pixels = dataset.card.request.max_pixels
    found = {}
    for id, data in encoded.items():
        picture = Image.fromarray(decode_image(data, max_pixels=max_pixels))
        picture.thumbnail((THUMBNAIL, THUMBNAIL))
        found[id] = picture_uri(np.asarray(picture))
    return found
