"""Audit "image or mask": accuracy of a model on views of the same images, and of mask shapes alone.

Every row is compared with the model's own answers to the images with their overlay, in pairs, over the same groups.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from overlay.evaluation.audit_views import AuditView
from overlay.evaluation.influence import accuracy_influence
from overlay.evaluation.intervals import Estimate, PairedDifference, estimate_metric, paired_difference
from overlay.evaluation.paired_tests import share_flips_test

AUDIT_IMAGES = 1_000
"""most images that are shown in several views; of a larger split, as many from all over it"""


@dataclass(frozen=True)
class AuditRow:
    """Answers to one view of the images beside the model's answers to their overlays."""

    accuracy: Estimate
    reference: Estimate
    """accuracy of the model on the same images with their overlay"""
    difference: PairedDifference
    """``accuracy`` minus ``reference``"""
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


def audit_row(
    labels: NDArray[np.int64], answers: NDArray[np.int64], reference: NDArray[np.int64], groups: NDArray[np.int64]
) -> AuditRow:
    """Compare (n,) answers with the model's answers to the same images with their overlay.

    All arguments are (n,) class indices, but for ``groups``: non-negative integers, equal for images of one group.
    """
    ours, theirs = accuracy_influence(labels, answers), accuracy_influence(labels, reference)
    return AuditRow(
        accuracy=estimate_metric(ours, groups),
        reference=estimate_metric(theirs, groups),
        difference=paired_difference(ours, theirs, groups),
        p=share_flips_test(answers == labels, reference == labels, groups).p,
        kept=float((answers == reference).mean()),
    )


def audited_rows(images: int) -> NDArray[np.intp]:
    """Return the positions of the images that are shown in several views: all, or `AUDIT_IMAGES` evenly spaced."""
    return np.unique(np.linspace(0, images - 1, min(images, AUDIT_IMAGES)).round().astype(np.intp))
