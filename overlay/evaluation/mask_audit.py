"""Audit "image or mask": accuracy of a model on views of the same images, and of mask shapes alone.

Every row is compared with the model's own answers to the images with their overlay, in pairs, over the same groups.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from overlay.dataset.prepared import PreparedDataset
from overlay.dataset.rows import read_rows
from overlay.evaluation.answers import EvaluatedAnswers
from overlay.evaluation.audit_views import AuditPlan, AuditView, possible_views, undo_error
from overlay.evaluation.influence import accuracy_influence
from overlay.evaluation.intervals import Estimate, PairedDifference, estimate_metric, paired_difference
from overlay.evaluation.paired_tests import share_flips_test

AUDIT_IMAGES = 1_000
"""most images that are shown in several views; of a larger split, as many from all over it"""


@dataclass(frozen=True)
class AuditRow:
    """Answers to one view of the images beside the model's answers to their overlays."""

    accuracy: Estimate
    difference: PairedDifference
    """from the accuracy on the same images with their overlay"""
    p: float
    """exact group flips test of the difference"""
    kept: float
    """share of the images with the same answer"""


@dataclass(frozen=True)
class MaskAudit:
    """Audit of a model on images with masks."""

    images: int
    """images that were shown, with and without a lesion"""
    overlay: Estimate
    """accuracy on them with their overlay"""
    views: Mapping[AuditView, AuditRow]
    undo_error: int
    """grey levels to within which the tint was removed"""


@dataclass(frozen=True, eq=False)
class AuditAnswers:
    """Answers of a model to the views of an audit."""

    plan: AuditPlan
    answers: Mapping[AuditView, Mapping[str, int]]
    """view -> id -> class index, for the images and views of the plan"""


def audit_row(
    labels: NDArray[np.int64], answers: NDArray[np.int64], reference: NDArray[np.int64], groups: NDArray[np.int64]
) -> AuditRow:
    """Compare (n,) answers with the model's answers to the same images with their overlay.

    All arguments are (n,) class indices, but for ``groups``: non-negative integers, equal for images of one group.
    """
    ours, theirs = accuracy_influence(labels, answers), accuracy_influence(labels, reference)
    return AuditRow(
        accuracy=estimate_metric(ours, groups),
        difference=paired_difference(ours, theirs, groups),
        p=share_flips_test(answers == labels, reference == labels, groups).p,
        kept=float((answers == reference).mean()),
    )


def plan_audit(dataset: PreparedDataset, split: str) -> AuditPlan | None:
    """Choose the images of a split to show in several views; None where no image has a mask."""
    rows = read_rows(dataset, split, ["mask_area_share"])
    if rows["mask_area_share"].null_count == len(rows):
        return None
    request = dataset.card.request
    ids = rows["id"].take(audited_rows(len(rows))).to_pylist()
    return AuditPlan(frozenset(ids), possible_views(request.overlay), request.overlay, request.max_pixels)


def measure_audit(answers: EvaluatedAnswers, ids: Sequence[str], audit: AuditAnswers) -> MaskAudit:
    """Compare the answers to each view with those to the images with their overlay; ``ids``: (n,) of all answers."""
    shown = np.array([position for position, name in enumerate(ids) if name in audit.plan.ids])
    labels, reference = answers.labels[shown], answers.predicted[shown]
    groups = np.unique(answers.groups[shown], return_inverse=True)[1].astype(np.int64)
    rows = {}
    for view, found in audit.answers.items():
        own = np.array([found[ids[position]] for position in shown.tolist()])
        rows[view] = audit_row(labels, own, reference, groups)
    overlay = estimate_metric(accuracy_influence(labels, reference), groups)
    return MaskAudit(len(shown), overlay, rows, undo_error(audit.plan.style))


def audited_rows(images: int) -> NDArray[np.intp]:
    """Return the positions of the images that are shown in several views: all, or `AUDIT_IMAGES` evenly spaced."""
    return np.unique(np.linspace(0, images - 1, min(images, AUDIT_IMAGES)).round().astype(np.intp))
