"""The work of a small prediction, in this process: rows come from the functions that the tasks on Ray call too."""

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Literal

import torch

from overlay.config import Predict
from overlay.decoding import Columns, decode_group
from overlay.engines import Pixels, open_engine, prepare, score_rows
from overlay.errors import RequestError
from overlay.manifest import Manifest
from overlay.model import ModelFile
from overlay.reading import Unit, rows_of


class InThisProcess:
    """A model in this process.

    Raises:
        RequestError: cuda is asked for and this machine has no GPU, or the engine can't be had.
    """

    processes: Mapping[str, float] = MappingProxyType({})
    """stage -> processes that work at it, where these are more than one"""

    def __init__(self, config: Predict, loaded: ModelFile, calibration: Pixels | None) -> None:
        if config.device == "cuda" and not torch.cuda.is_available():
            raise RequestError("device is cuda, but this machine has no GPU; choose cpu, or set RAY_ADDRESS")
        device: Literal["cpu", "cuda"] = "cuda" if config.device != "cpu" and torch.cuda.is_available() else "cpu"
        plan = prepare(loaded, config.engine, device, config.precision, calibration)
        self._engine = open_engine(plan, batch_size=config.batch_size, flips=config.flips)
        self._config, self._card = config, loaded.card

    def classify(self, manifest: Manifest, units: Sequence[Unit]) -> Iterator[Columns]:
        """Yield the scored rows of all units, a group at a time."""
        for unit in units:
            for wanted in rows_of(unit, manifest):
                first = manifest.rows_of(wanted["group"]).start
                block = decode_group(wanted, first, manifest, self._card, self._config.max_pixels)
                yield score_rows(self._engine, block, self._config.embeddings)
