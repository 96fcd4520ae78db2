"""Verdict of an evaluation in two sentences, from its intervals and paired tests."""

from overlay.evaluation.intervals import Estimate
from overlay.evaluation.mask_audit import MaskAudit
from overlay.evaluation.page import SIGNIFICANT, p_equation, percent
from overlay.evaluation.report_data import ConstantAnswer, MaskOnly


def accuracy_sentence(accuracy: Estimate, constant: ConstantAnswer) -> str:
    """Return the accuracy, its interval and what it is worth beside a constant answer."""
    said = (
        f"The model is right on {percent(accuracy.value)} of {accuracy.images} images (95 % interval "
        f"{percent(accuracy.low)} to {percent(accuracy.high)})"
    )
    other = f"always answering {constant.name} ({percent(constant.share)}; p {p_equation(constant.p)})"
    if constant.p >= SIGNIFICANT:
        return f"{said}, which is not shown to be better than {other}."
    return f"{said}, {'more' if accuracy.value > constant.share else 'less'} than {other}."


def mask_sentence(masks: MaskOnly | None, audit: MaskAudit | None, drawn: bool) -> str | None:
    """Return what the answers owe to the mask: the paired test against mask shapes, and the view without the lesion.

    None where there are no masks. ``drawn``: masks are drawn on the images.
    """
    if masks is None:
        return None
    blanked = None if audit is None else audit.views.get("blanked")
    stay = "" if blanked is None else f"; with the lesion's pixels blanked, {percent(blanked.kept)} of its answers stay"
    points = 100 * masks.difference.value
    side = "above" if points > 0 else "below"
    gap = "as good as" if points == 0 else f"{abs(points):.1f} percentage points {side}"
    if masks.p >= SIGNIFICANT:
        said = f"It is {gap} the shape of the mask alone, {'and' if points == 0 else 'but'} no difference is shown"
        return f"{said} (p {p_equation(masks.p)}){stay}."
    more = ", so it reads more than the outline" if drawn and points > 0 else ""
    return f"It is {gap} the shape of the mask alone (p {p_equation(masks.p)}){more}{stay}."
