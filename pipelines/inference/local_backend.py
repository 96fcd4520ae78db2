"""Local backend of a prediction: decoding threads and one model in this process, by the functions that Ray tasks call.

Threads prefetch a few decoded groups, so that the model does not wait; each has its images decoded by a process
(`overlay.images.decoder_pool`), so that an image on which a decoder dies doesn't end the command. Other threads call
the engine while the command writes rows: one on CPUs, and two on a GPU, of which one copies while the batch of the
other is computed.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import joblib

from overlay.config import Predict
from overlay.engines.base import Pixels, ScoredBatch, score_rows
from overlay.engines.factory import open_engine, prepare_engines
from overlay.models.model_file import ModelFile
from overlay.prediction.cost import OccupiedHardware
from overlay.sources.decode import DecodedBatch, GroupDecoder
from overlay.sources.read_plan import ReadUnit
from overlay.sources.reader import group_requests
from overlay.storage.ahead import map_ahead, worker_threads
from pipelines.inference.join_batches import join_batches
from pipelines.inference.small_jobs import choose_local_device


class LocalBackend:
    """Backend with one model in this process.

    Raises:
        RequestError: ``config.device`` is cuda and this machine has no GPU, or the engine does not support the model,
            the device or the precision.
    """

    def __init__(self, config: Predict, models: Sequence[ModelFile], calibration: Pixels | None) -> None:
        device = choose_local_device(config.device)
        plan = prepare_engines(models, config.engine, device, config.precision, calibration)
        self.computed, self._in_flight = str(plan), plan.in_flight
        self._engine = open_engine(plan, batch_size=config.batch_size, flips=config.flips)
        self._embeddings = config.embeddings
        self._cores = joblib.cpu_count()
        self.processes: Mapping[str, float] = {"read": self._cores, "decode": self._cores}
        """stage -> number of threads"""
        self.hardware: OccupiedHardware | None = OccupiedHardware(self._cores, gpus=1 if device == "cuda" else 0)

    def classify(self, decoder: GroupDecoder, remaining: Callable[[], Sequence[ReadUnit]]) -> Iterator[ScoredBatch]:
        """Yield the scored rows of the units that remain, in their order."""
        requests = (request for unit in remaining() for request in group_requests(unit, decoder.manifest))
        with worker_threads(self._cores) as decoding, worker_threads(self._in_flight) as scoring:
            decoded = map_ahead(decoding, decoder, requests, self._cores)
            yield from map_ahead(scoring, self._score, join_batches(decoded, self._engine.chunk), self._in_flight)

    def _score(self, batch: DecodedBatch) -> ScoredBatch:
        return score_rows(self._engine, batch, self._embeddings)
