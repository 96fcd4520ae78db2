"""Configuration of every verb: frozen dataclasses, validated when they are built.

One class for each verb; its sections are classes of their own, so that ``--augment.rotation 5`` on the command line is
``augment: {rotation: 5}`` in a file and ``Augment(rotation=5)`` in Python. Imports nothing heavy: the command line
reads these classes before it knows whether torch or Ray is needed.
"""

from overlay.config.calibration import Calibration
from overlay.config.cluster import ClusterOptions
from overlay.config.common import (
    MAX_PIXELS,
    SPLITS,
    BatchSize,
    Device,
    EngineKind,
    Images,
    Legacy,
    Limits,
    LogFormat,
    OverlayStyle,
    Precision,
    ResizeRule,
    Tracking,
    check,
    check_batch_size,
    check_engine,
    dotted,
    table_column,
)
from overlay.config.compare import COMPARISON_METRICS, Compare, ComparisonMetric
from overlay.config.demo import Demo
from overlay.config.evaluate import Evaluate
from overlay.config.export import Export
from overlay.config.inference import InferenceOptions, rows_in_batch
from overlay.config.masks import MaskNames, Masks
from overlay.config.optimization import EarlyStopping, Loss, Optimizer
from overlay.config.predict import Predict
from overlay.config.prepare import Duplicates, Encoding, Labels, Layout, Prepare, Split
from overlay.config.submit import JOB_ACTIONS, Driver, Submit
from overlay.config.train import Augment, Input, Loop, Model, Train, TrainingOptions

__all__ = [
    "COMPARISON_METRICS",
    "JOB_ACTIONS",
    "MAX_PIXELS",
    "SPLITS",
    "Augment",
    "BatchSize",
    "Calibration",
    "ClusterOptions",
    "Compare",
    "ComparisonMetric",
    "Demo",
    "Device",
    "Driver",
    "Duplicates",
    "EarlyStopping",
    "Encoding",
    "EngineKind",
    "Evaluate",
    "Export",
    "Images",
    "InferenceOptions",
    "Input",
    "Labels",
    "Layout",
    "Legacy",
    "Limits",
    "LogFormat",
    "Loop",
    "Loss",
    "MaskNames",
    "Masks",
    "Model",
    "Optimizer",
    "OverlayStyle",
    "Precision",
    "Predict",
    "Prepare",
    "ResizeRule",
    "Split",
    "Submit",
    "Tracking",
    "Train",
    "TrainingOptions",
    "check",
    "check_batch_size",
    "check_engine",
    "dotted",
    "rows_in_batch",
    "table_column",
]
