"""Processes of Ray Data that die each time: the work ends by an error, and is not retried forever."""

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from overlay.config import InferenceOptions
from overlay.engines.base import EnginePlan
from overlay.errors import WorkError
from overlay.sources.split_reading import DatasetBatch, SplitReading
from pipelines.inference.split_scores import score_on_ray
from pipelines.training import image_source

pytestmark = [pytest.mark.slow, pytest.mark.fault, pytest.mark.usefixtures("ray_session")]
DIED = "a worker process died again and again"


@dataclass(frozen=True)
class Reading:
    """Stands for the reading of a split of one shard, in whose task the process may die."""

    deadly: bool
    shards: tuple[str, ...] = ("shard",)

    def batches(self, *_: int) -> Iterator[DatasetBatch]:
        if self.deadly:
            os.kill(os.getpid(), signal.SIGSEGV)
        none = np.array([""])
        pixels = np.zeros((1, 8, 8, 3), np.uint8)
        yield {"id": none, "label": none, "pixels": pixels, "reason": none, "error_kind": none}


class DeadlyModel:
    """Stands for a model on which the process dies that loads it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return eval, ("__import__('os').kill(__import__('os').getpid(), 11)",)


def scores(model: object, *, deadly: bool) -> list[object]:
    plan = EnginePlan("torch", "cpu", "fp32", model, 2)  # type: ignore[arg-type]
    reading = cast(SplitReading, Reading(deadly=deadly))
    return list(score_on_ray(plan, reading, InferenceOptions("cpu")))


def test_an_evaluation_ends_where_every_reading_process_dies() -> None:
    with pytest.raises(WorkError, match=f"evaluation stopped: {DIED}"):
        scores(SimpleNamespace(), deadly=True)


def test_an_evaluation_ends_where_every_process_dies_that_loads_the_model() -> None:
    with pytest.raises(WorkError, match=f"evaluation stopped: {DIED}"):
        scores(DeadlyModel(), deadly=False)


def test_a_training_ends_where_every_decoding_process_dies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_source, "stored_images", lambda *_, **__: Reading(deadly=True))
    with pytest.raises(WorkError, match=f"decoding the val images stopped: {DIED}"):
        image_source.decode_split(None, "val", None)  # type: ignore[arg-type]
