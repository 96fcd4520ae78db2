"""From decoded images to probabilities: the pool of model actors behind evaluation and prediction."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import ray
import ray.data
import torch
from numpy.typing import NDArray
from ray.data import ActorPoolStrategy

from cluster.session import Resources
from overlay import model
from overlay.config import Precision
from overlay.device import autocast, use_all_cores
from overlay.network import normalise
from pipelines.placement import actor_cpus

Columns = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Engine:
    """How the model runs."""

    device: Literal["cpu", "cuda"]
    precision: Precision
    batch_size: int
    actors: int | None = None
    """processes that hold the model; one for each GPU, or one on CPUs, where it is None"""


def score(rows: ray.data.Dataset, loaded: model.ModelFile, engine: Engine, cluster: Resources) -> ray.data.Dataset:
    """Replace the column ``pixels`` by ``probabilities``.

    ``pixels`` is uint8 (size, size, 3) in each row, ``reason`` a text that is empty where the pixels are an image.
    ``probabilities`` is float32 (classes,), NaN where there was a reason. All other columns stay.
    """
    actors = engine.actors or (max(1, int(cluster.gpus)) if engine.device == "cuda" else 1)
    return rows.map_batches(
        Scorer,
        fn_constructor_args=(ray.put(loaded), engine, actors),
        batch_size=engine.batch_size,
        compute=ActorPoolStrategy(size=actors),
        # Less than a whole CPU: where actors ask for as much as the tasks before them, Ray Data fuses the two.
        num_cpus=0.9 * actor_cpus(actors, cluster),
        num_gpus=int(engine.device == "cuda"),
    )


class Scorer:
    """An actor that holds the model."""

    def __init__(self, loaded: ray.ObjectRef[model.ModelFile], engine: Engine, actors: int) -> None:
        file: model.ModelFile = ray.get(loaded)
        self._device = torch.device(engine.device)
        use_all_cores(share=actors if engine.device == "cpu" else 1)
        network = model.network(file)
        self._network = network.to(device=self._device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._autocast = autocast(self._device, engine.precision)
        self._mean = torch.tensor(file.card.mean, device=self._device)
        self._std = torch.tensor(file.card.std, device=self._device)
        self._classes = len(file.card.classes)

    def __call__(self, rows: Columns) -> Columns:
        """Score one batch; rows with a reason take no part in the forward pass."""
        images = rows["reason"] == ""
        probabilities = np.full((len(images), self._classes), np.nan, np.float32)
        if images.any():
            with torch.inference_mode(), self._autocast:
                pixels = torch.from_numpy(rows["pixels"][images]).to(self._device)
                logits = self._network(normalise(pixels, self._mean, self._std))
            probabilities[images] = logits.float().softmax(dim=1).cpu().numpy()
        return {name: column for name, column in rows.items() if name != "pixels"} | {"probabilities": probabilities}
