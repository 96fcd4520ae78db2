"""Line of each candidate in a comparison: its metrics with intervals, its trainings, its size."""

from dataclasses import dataclass

from overlay.config import ComparisonMetric
from overlay.evaluation.intervals import Estimate

METRIC_WORDS: dict[str, str] = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro-F1",
    "auroc": "AUROC",
    "log_loss": "log loss",
    "sensitivity": "sensitivity",
}


@dataclass(frozen=True)
class CandidateLine:
    """A candidate and its results over all its test images."""

    candidate: str
    estimate: Estimate
    """the metric of the verdict"""
    estimates: dict[ComparisonMetric, Estimate]
    """every metric that is defined"""
    per_training: list[float]
    """the metric of the verdict on each training's test images, by seed and fold; NaN where it is not defined"""
    seconds: float | None
    """mean training time in seconds; None for a finished model"""
    parameters: int
    val_macro_f1: float | None
    """mean over the trainings; None for a finished model"""
