"""The work of a small prediction, in this process: rows come from the functions that the tasks on Ray call too."""

import time
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

import numpy as np
import torch

from overlay import model
from overlay.config import Predict
from overlay.decoding import Columns, decode_group
from overlay.device import autocast
from overlay.errors import RequestError
from overlay.manifest import Manifest
from overlay.network import normalise
from overlay.reading import Unit, rows_of


class InThisProcess:
    """A model in this process.

    Raises:
        RequestError: cuda is asked for and this machine has no GPU.
    """

    processes: Mapping[str, float] = MappingProxyType({})
    """stage -> processes that work at it, where these are more than one"""

    def __init__(self, config: Predict, loaded: model.ModelFile) -> None:
        if config.device == "cuda" and not torch.cuda.is_available():
            raise RequestError("device is cuda, but this machine has no GPU; choose cpu, or set RAY_ADDRESS")
        self._device = torch.device("cuda" if config.device != "cpu" and torch.cuda.is_available() else "cpu")
        self._network = model.network(loaded).to(device=self._device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._autocast = autocast(self._device, config.precision)
        self._mean = torch.tensor(loaded.card.mean, device=self._device)
        self._std = torch.tensor(loaded.card.std, device=self._device)
        self._card, self._max_pixels = loaded.card, config.max_pixels

    def classify(self, manifest: Manifest, units: Sequence[Unit]) -> Iterator[Columns]:
        """Yield the scored rows of all units, a group at a time."""
        for unit in units:
            for wanted in rows_of(unit, manifest, go_on=True):
                first = manifest.rows_of(wanted["group"]).start
                yield self._scored(decode_group(wanted, first, manifest, self._card, self._max_pixels))

    def _scored(self, block: Columns) -> Columns:
        began = time.monotonic()
        images = block["reason"] == ""
        probabilities = np.full((len(images), len(self._card.classes)), np.nan, np.float32)
        if images.any():
            with torch.inference_mode(), self._autocast:
                pixels = torch.from_numpy(block["pixels"][images]).to(self._device)
                logits = self._network(normalise(pixels, self._mean, self._std))
            probabilities[images] = logits.float().softmax(dim=1).cpu().numpy()
        seconds = np.full(len(images), (time.monotonic() - began) / len(images))
        return block | {"probabilities": probabilities, "seconds_forward": seconds}
