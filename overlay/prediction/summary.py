"""Summary of a batch prediction: label and error counts over all committed rows, and time of each stage."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from overlay.engines.base import ScoredBatch
from overlay.errors import ErrorKind
from overlay.evaluation.estimates import estimate_text
from overlay.evaluation.influence import accuracy_influence, macro_f1_influence
from overlay.evaluation.intervals import Estimate, estimate_metric
from overlay.evaluation.report_data import SeenImages
from overlay.prediction.cost import OccupiedHardware
from overlay.prediction.output_folder import PredictionFolder
from overlay.prediction.row_writer import error_reason
from overlay.sources.manifest import Manifest
from overlay.storage.parquet import open_parquet

STAGES = ("listing", "read", "decode", "forward", "write")
"""stages of a prediction"""


@dataclass
class StageTimes:
    """Time of each stage of one run, and its throughput."""

    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    """stage -> seconds, summed over all processes"""
    processes: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 1.0))
    """stage -> number of processes or threads"""
    hardware: OccupiedHardware | None = None
    """None where it changed, so that the cost is not known"""
    elapsed: float = 0.0
    """wall-clock seconds of classification"""
    images: int = 0
    bytes: int = 0
    """bytes read"""
    first_images: int = 0
    """images in the first scored batch"""
    first_forward: float = 0.0
    """seconds of the first scored batch in its engine"""
    first_at: float = 0.0
    """arrival of the first scored batch, in seconds of `time.monotonic`"""
    last_at: float = 0.0
    """arrival of the last scored batch, in seconds of `time.monotonic`"""

    def add(self, block: ScoredBatch, writing: float) -> None:
        """Count a scored batch; ``writing`` is the time of writing it, in seconds."""
        stages = {"read": block["seconds_read"], "decode": block["seconds_decode"], "forward": block["seconds_forward"]}
        for stage, seconds in stages.items():
            self.seconds[stage] += float(seconds.sum())
        self.seconds["write"] += writing
        self.last_at = time.monotonic()
        if not self.images:
            self.first_at, self.first_images = self.last_at, len(block["row"])
            self.first_forward = self.seconds["forward"]
        self.images += len(block["row"])
        self.bytes += int(block["bytes"].sum())

    def steady_rate(self) -> float | None:
        """Return the throughput after the first scored batch, in images/s; None where there was only one."""
        if self.last_at == self.first_at:
            return None
        return (self.images - self.first_images) / (self.last_at - self.first_at)

    def device_wait_share(self) -> float | None:
        """Return the share of the time after the first scored batch in which an engine had no batch, in the mean.

        None where there was only one batch.
        """
        if self.last_at == self.first_at:
            return None
        busy = (self.seconds["forward"] - self.first_forward) / self.processes["forward"]
        return max(0.0, 1 - busy / (self.last_at - self.first_at))

    def bottleneck(self) -> tuple[str, float]:
        """Return the slowest stage, and its share of the stages' time; time is divided by the number of processes."""
        alone = self._stage_times()
        stage = max(alone, key=lambda name: alone[name])
        return stage, alone[stage] / max(sum(alone.values()), 1e-9)

    def cost_values(self) -> dict[str, tuple[float, str]]:
        """Return the rows of ``metrics.parquet`` for the cost, name -> value and unit; none where it is not known."""
        if self.hardware is None:
            return {}
        values = self.hardware.cost_values(self.images, self.elapsed)
        if (share := self.device_wait_share()) is not None:
            values["device_wait_share"] = (share, "1")
        return values

    def describe_cost(self) -> str:
        """Return the cost and what the device waited for as one line."""
        if self.hardware is None:
            return "cost: not known, since nodes came or went"
        text = f"cost: {self.hardware.describe_cost(self.images, self.elapsed)}"
        if (share := self.device_wait_share()) is None:
            return text
        others = {stage: time for stage, time in self._stage_times().items() if stage in ("read", "decode", "write")}
        cause = f", for {max(others, key=lambda name: others[name])}" if share >= 0.005 else ""
        return f"{text}; the device waited {share:.0%} of the time{cause}"

    def _stage_times(self) -> dict[str, float]:
        """Return the seconds of each stage, divided by the number of its processes."""
        return {stage: seconds / self.processes[stage] for stage, seconds in self.seconds.items()}


@dataclass(frozen=True)
class PredictionSummary:
    """Counts over all rows of a prediction."""

    classes: Sequence[str]
    images: int
    errors: Counter[str]
    """kind of error -> number of rows; see `error_reason`"""
    unreadable: int
    """number of inputs that could not be read, which another attempt may not have"""
    predicted: Counter[str]
    """class -> number of rows"""
    uncertain: int | None
    """number of uncertain rows; None without a threshold"""
    confusion: NDArray[np.int64]
    """(classes, classes), rows true, columns predicted, of the images whose label is known"""
    overlay_missing: int
    """number of images without the overlay that the model was trained on"""
    seen: SeenImages | None = None
    """labelled images that the model has seen; None where there are none with a label, or its file has no hashes"""

    def values(self, stages: StageTimes) -> dict[str, tuple[float, str]]:
        """Return the rows of ``metrics.parquet``: name -> value and unit."""
        values: dict[str, tuple[float, str]] = {
            "images": (self.images, "images"),
            "errors": (self.errors.total(), "images"),
            "unreadable": (self.unreadable, "images"),
            "seconds": (stages.elapsed, "s"),
            "images_per_second": (stages.images / max(stages.elapsed, 1e-9), "images/s"),
            "bytes_read": (stages.bytes, "bytes"),
            "overlay_missing": (self.overlay_missing, "images"),
        }
        if rate := stages.steady_rate():
            values["images_per_second_once_started"] = (rate, "images/s")
        values |= stages.cost_values()
        values |= {f"predicted_{name}": (self.predicted[name], "images") for name in self.classes}
        values |= {f"errors: {reason}": (count, "images") for reason, count in self.errors.most_common()}
        if self.uncertain is not None:
            values["uncertain"] = (self.uncertain, "images")
        values |= {f"seconds_{stage}": (seconds, "s") for stage, seconds in stages.seconds.items()}
        stage, share = stages.bottleneck()
        values[f"bottleneck: {stage}"] = (share, "1")
        if self.confusion.any():
            values["labelled"] = (int(self.confusion.sum()), "images")
            for name, found in self._estimates().items():
                values |= {name: (found.value, "1"), f"{name}_low": (found.low, "1"), f"{name}_high": (found.high, "1")}
        if self.seen is not None:
            values["seen_looked_at"] = (self.seen.images, "images")
            values |= {"seen_train": (self.seen.train, "images"), "seen_val": (self.seen.val, "images")}
        return values

    def lines(self, stages: StageTimes) -> list[str]:
        """Return the summary as lines of text for the terminal."""
        counts = ", ".join(f"{self.predicted[name]} {name}" for name in self.classes)
        lines = [f"{self.images} images: {counts}, {self.errors.total()} errors"]
        lines += [f"  {count} {reason}" for reason, count in self.errors.most_common()]
        if self.unreadable:
            lines.append(f"{self.unreadable} could not be read, which may pass; --retry_errors tries them again")
        if self.confusion.any():
            said = {name: estimate_text(found) for name, found in self._estimates().items()}
            lines.append(
                f"accuracy {said['accuracy']}, macro-F1 {said['macro_f1']} on the {int(self.confusion.sum())} images "
                "whose label is known; 95 % intervals, taking each image for independent"
            )
            lines.append(self._describe_seen())
        if self.uncertain is not None:
            lines.append(f"{self.uncertain} are uncertain by the model's own threshold")
        stage, share = stages.bottleneck()
        times = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in stages.seconds.items())
        lines.append(f"bottleneck: {stage} ({share:.0%} of the stages' time: {times})")
        return [*lines, stages.describe_cost()] if stages.images else lines

    def _estimates(self) -> dict[str, Estimate]:
        """Return accuracy and macro-F1 of the images whose label is known, each a group of its own."""
        true, predicted = (axis.ravel() for axis in np.indices(self.confusion.shape))
        labels, answers = (np.repeat(axis, self.confusion.ravel()) for axis in (true, predicted))
        alone = np.arange(len(labels))
        return {
            "accuracy": estimate_metric(accuracy_influence(labels, answers), alone),
            "macro_f1": estimate_metric(macro_f1_influence(labels, answers), alone),
        }

    def _describe_seen(self) -> str:
        """Return whether the model has seen the images whose label is known, as far as that is known."""
        if self.seen is None or not self.seen.images:
            return "the images whose label is known may include those that the model was trained on"
        if not self.seen.total:
            return f"of {self.seen.images} of them that were looked at, the model has seen none"
        return (
            f"CAUTION: of {self.seen.images} of them that were looked at, the model was trained on {self.seen.train} "
            f"and validated on {self.seen.val}, so this is no accuracy on new images"
        )


def summarise_predictions(
    folder: PredictionFolder, manifest: Manifest, classes: Sequence[str], overlay_missing: int
) -> PredictionSummary:
    """Count labels and errors of all parts of a complete prediction.

    Raises:
        OSError: a part can't be read.
    """
    errors: Counter[str] = Counter()
    predicted: Counter[str] = Counter()
    confusion = np.zeros((len(classes), len(classes)), np.int64)
    uncertain: int | None = None
    images = unreadable = 0
    position = {name: index for index, name in enumerate(classes)}
    for part in range(manifest.parts):
        with open_parquet(folder.part(part)) as file:
            wanted = {"error", "error_kind", "label", "uncertain"} & set(file.schema_arrow.names)
            table = file.read(columns=sorted(wanted))
        images += len(table)
        errors.update(map(error_reason, table["error"].drop_null().to_pylist()))
        unreadable += table["error_kind"].drop_null().to_pylist().count(ErrorKind.UNREADABLE)
        predicted.update(table["label"].drop_null().to_pylist())
        if "uncertain" in table.column_names:
            uncertain = (uncertain or 0) + sum(table["uncertain"].drop_null().to_pylist())
        both = pa.table({"true": manifest.read_part(part, ["label"])["label"], "label": table["label"]})
        for row in both.drop_null().group_by(["true", "label"]).aggregate([([], "count_all")]).to_pylist():
            confusion[position[row["true"]], position[row["label"]]] += row["count_all"]
    return PredictionSummary(classes, images, errors, unreadable, predicted, uncertain, confusion, overlay_missing)
