"""Evaluation report as one HTML page, ``report.html``.

The page is for a reader who doubts: what the tests show comes first, then what the answers owe to the masks, then the
errors, and last how the images were divided and the numbers computed.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from markupsafe import Markup

from overlay.evaluation import charts, report_text
from overlay.evaluation.audit_views import AuditView
from overlay.evaluation.intervals import Estimate, PairedDifference
from overlay.evaluation.page import plain, render_page
from overlay.evaluation.report_data import MaskOnly, Protocol, ReportData
from overlay.evaluation.verdict import accuracy_sentence, mask_sentence


@dataclass(frozen=True)
class AuditLine:
    """Row of the table "image or mask"."""

    name: str
    note: str
    accuracy: Estimate
    difference: PairedDifference | None = None
    p: float | None = None
    kept: float | None = None


@dataclass(frozen=True)
class AuditTable:
    """Table "image or mask" with what is said above and below it."""

    caption: str
    blocks: tuple[tuple[AuditLine, ...], ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class FlowStep:
    """Number of images, or of groups, at one step from the sources to the splits."""

    images: int
    text: str


def render_report(data: ReportData) -> str:
    """Return the page as HTML. Every text in it is escaped."""
    protocol = data.protocol
    sentences = (
        accuracy_sentence(data.evaluation.accuracy, data.constant),
        mask_sentence(data.mask_only, data.audit, drawn=protocol.overlay != "none"),
    )
    return render_page(
        "report.html.j2",
        {
            "data": data,
            "e": data.evaluation,
            "p": protocol,
            "where": report_text.describe_split(protocol),
            "verdict": [sentence for sentence in sentences if sentence is not None],
            "audit": audit_table(data),
            "loss_sentence": report_text.loss_sentence(data),
            "errors_sentence": report_text.errors_sentence(data),
            "doubts": data.doubts[: report_text.MOST_DOUBTS],
            "doubts_sentence": report_text.doubts_sentence(data),
            "gallery_sentence": report_text.gallery_sentence(data),
            "charts": draw_charts(data),
            "curves_sentences": report_text.curves_sentences(data),
            "sensitivity_of": None if data.operating is None else data.operating.positive,
            "training_sentence": report_text.training_sentence(data),
            "flow": flow_steps(protocol),
            "facts": report_text.protocol_facts(data),
            "statistics": report_text.STATISTICS,
        },
    )


def audit_table(data: ReportData) -> AuditTable | None:
    """Return the table "image or mask"; None for a dataset without masks."""
    audit, lines, notes = data.audit, [], []
    if audit is not None:
        part = "" if audit.images == data.evaluation.images else f" ({audit.images} of them)"
        lines.append(AuditLine("Image as evaluated", f"{audit.images} images{part}", audit.overlay))
        names = _view_names(data.protocol, audit.undo_error)
        for view, row in audit.views.items():
            lines.append(AuditLine(*names[view], row.accuracy, row.difference, row.p, row.kept))
        if "untinted" not in audit.views and data.protocol.overlay != "none":
            hidden = "a contour" if data.protocol.overlay.startswith("contour") else "an opaque fill"
            notes.append(f"There is no row without the overlay: {hidden} hides the pixels beneath it.")
    shapes = []
    for masks, which in ((data.mask_only, "all images"), (data.mask_only_lesions, "only images with a lesion")):
        if masks is not None:
            shapes.append(_mask_line(masks, which))
    if data.mask_only is not None:
        numbers = ", ".join(data.mask_only.numbers)
        alone = " Images without a lesion tell their class by that." if data.mask_only_lesions is not None else ""
        notes.append(f"Mask shapes: {numbers}, read by a random forest that was trained on the train split.{alone}")
    if not lines and not shapes:
        return None
    caption = "The same model shown other views of the same images, and mask shapes without any pixel"
    return AuditTable(caption, tuple(tuple(block) for block in (lines, shapes) if block), tuple(notes))


def draw_charts(data: ReportData) -> Mapping[str, Markup | None]:
    """Draw the charts of the page, by name; None for one that does not apply."""
    curves, operating, evaluation = data.curves, data.operating, data.evaluation
    point = mark = losses = scores = None
    if operating is not None and operating.sensitivity is not None and operating.specificity is not None:
        rates = operating.sensitivity.value, operating.specificity.value
        point = charts.RocPoint(operating.positive, operating.threshold, *rates)
    if data.uncertain is not None and data.uncertain.accuracy_of_rest is not None:
        mark = data.uncertain.share.value, data.uncertain.accuracy_of_rest.value
    fitted = data.calibration is not None and data.calibration.temperature != 1
    before = data.calibration.reliability_uncalibrated if data.calibration is not None and fitted else None
    if (training := data.training) is not None:
        losses = charts.training_chart(training.history, training.best_epoch, loss=True)
        scores = charts.training_chart(training.history, training.best_epoch, loss=False)
    drawn = {
        "confusion": charts.confusion_chart(evaluation.classes, evaluation.confusion),
        "roc": charts.roc_chart(curves.roc, point) if curves.roc else None,
        "reliability": charts.reliability_chart(before, curves.reliability),
        "set_aside": charts.deferral_chart(curves.set_aside, curves.accuracy_of_rest, mark),
        "losses": losses,
        "scores": scores,
    }
    return {name: None if chart is None else Markup(chart) for name, chart in drawn.items()}


def flow_steps(protocol: Protocol) -> list[FlowStep]:
    """Return the numbers from the sources to the groups; the table of the splits follows."""
    flow = protocol.flow
    return [
        FlowStep(flow.listed, "images listed"),
        FlowStep(flow.rejected, "rejected"),
        FlowStep(flow.conflicts, f"of {flow.near_duplicates} pairs of near-duplicates with two labels"),
        FlowStep(flow.groups, "groups, each on one side of the split"),
    ]


def _view_names(protocol: Protocol, undo_error: int) -> Mapping[AuditView, tuple[str, str]]:
    """Name and note of each view."""
    levels = "one grey level" if undo_error == 1 else f"{undo_error} grey levels"
    kept = "the lesion plain grey" if protocol.overlay == "none" else "the lesion plain grey beneath its overlay"
    return {
        "untinted": ("Overlay removed", f"to within {levels}"),
        "mask": ("Mask alone", "its overlay on plain grey"),
        "blanked": ("Lesion blanked", kept),
    }


def _mask_line(masks: MaskOnly, which: str) -> AuditLine:
    gap = masks.difference
    opposite = PairedDifference(-gap.value, -gap.high, -gap.low, gap.correlation)
    note = f"{masks.accuracy.images} images; the model {plain(masks.accuracy.value + gap.value)}"
    return AuditLine(f"Mask shapes, {which}", note, masks.accuracy, opposite, masks.p)
