"""Content of ``metrics.json``: all metrics with their intervals, and on what and how they were computed."""

from dataclasses import asdict
from typing import Any

from overlay.evaluation.intervals import Estimate
from overlay.evaluation.report_data import ReportData


def metrics_json(report: ReportData) -> dict[str, Any]:
    """Return the numbers of a report as values of JSON; ``estimates`` has every interval, a row a metric."""
    protocol, content = report.protocol, report.evaluation.to_json()
    content["estimates"] += [
        {"metric": metric, "class": name, **asdict(found)}
        for metric, name, found in _further_estimates(report)
        if found is not None
    ]
    return {
        "model_sha256": protocol.model_sha256,
        "dataset": protocol.dataset,
        "dataset_fingerprint": protocol.fingerprint,
        "split": protocol.split,
        "fold": protocol.fold,
        "engine": protocol.inference.engine,
        "precision": protocol.inference.precision,
        "flips": protocol.inference.flips,
        "overlay": protocol.overlay,
        "model_overlay": protocol.model_overlay,
        "missing_classes": list(protocol.missing_classes),
        "seen": None if report.seen is None else asdict(report.seen),
        "cautions": list(report.cautions),
        **content,
        **_thresholds(report),
        "mask_only": None if report.mask_only is None else asdict(report.mask_only),
        "mask_only_lesions": None if report.mask_only_lesions is None else asdict(report.mask_only_lesions),
        "audit": None if report.audit is None else asdict(report.audit),
        "subgroups": [asdict(table) for table in report.subgroups],
        "doubted_labels": [asdict(doubt) for doubt in report.doubts],
    }


def _thresholds(report: ReportData) -> dict[str, Any]:
    point, uncertain, calibration = report.operating, report.uncertain, report.calibration
    return {
        "temperature": None if calibration is None else calibration.temperature,
        "positive": None if point is None else point.positive,
        "threshold": None if point is None else point.threshold,
        "threshold_n": None if point is None else point.threshold_n,
        "uncertain_below": None if uncertain is None else uncertain.below,
    }


def _further_estimates(report: ReportData) -> list[tuple[str, str | None, Estimate | None]]:
    """Return the estimates that belong to the model's thresholds and temperature: name, class and estimate."""
    rows: list[tuple[str, str | None, Estimate | None]] = []
    if (point := report.operating) is not None:
        rows += [("sensitivity", point.positive, point.sensitivity), ("specificity", point.positive, point.specificity)]
    if (uncertain := report.uncertain) is not None:
        rows += [("uncertain_share", None, uncertain.share), ("accuracy_of_rest", None, uncertain.accuracy_of_rest)]
    if (calibration := report.calibration) is not None:
        rows.append(("log_loss_uncalibrated", None, calibration.log_loss_uncalibrated))
        rows.append(("log_loss_of_shares", None, calibration.log_loss_of_shares))
    return rows
