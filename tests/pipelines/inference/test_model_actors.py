from typing import Any

import numpy as np
import pytest

from overlay.config import InferenceOptions
from overlay.engines.base import Engine, Floats, Forward, Pixels
from overlay.sources.split_reading import DatasetBatch
from pipelines.inference import model_actors


def test_an_actor_replaces_the_pixels_and_keeps_other_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its forward pass is replaced by one that calls every image's red its probability."""

    class Reds(Forward):
        precision, embedding_size = "fp32", 2

        def run(self, chunks: list[Pixels]) -> list[tuple[Floats, Floats]]:
            reds = [chunk[:, 0, 0, :1].astype(np.float32) for chunk in chunks]
            return [(red, np.repeat(red, 2, axis=1)) for red in reds]

    monkeypatch.setattr(model_actors, "open_engine", lambda *_, **__: Engine(Reds(), classes=1, chunk=2, flips=False))
    monkeypatch.setattr("ray.get", lambda plan: plan)
    actor = model_actors.ModelActor("plan", InferenceOptions("cpu", embeddings=True), share=1)  # type: ignore[arg-type]
    batch: DatasetBatch = {
        "id": np.array(["a", "b", "c"]),
        "label": np.array(["x", "y", "x"]),
        "pixels": np.arange(3, dtype=np.uint8).repeat(3).reshape(3, 1, 1, 3),
        "reason": np.array(["", "broken", ""]),
        "error_kind": np.array(["", "damaged", ""]),
    }
    scored: dict[str, Any] = dict(actor(batch))
    names = ["id", "label", "reason", "error_kind", "probabilities", "seconds_forward", "precision", "embedding"]
    assert list(scored) == names
    assert [list(map(str, scored[name])) for name in ("id", "label", "reason")] == [
        ["a", "b", "c"],
        ["x", "y", "x"],
        ["", "broken", ""],
    ]
    np.testing.assert_array_equal(scored["probabilities"], [[0], [np.nan], [2]])
    np.testing.assert_array_equal(scored["embedding"], [[0, 0], [np.nan, np.nan], [2, 2]])
