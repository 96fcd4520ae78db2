"""Inference engine, its plan, and the batches between decoding and scoring.

    plan = prepare_engine(load_model_file("run"))  # in the process that asked; a plan is pickled and sent to others
    engine = open_engine(plan)                     # in the process that computes
    engine(pixels).probabilities

On CPUs a batch is cut into small chunks that run side by side, each on a thread of its own: they never wait for each
other, so cores that also decode images lose nothing. All chunks have one shape, the last one padded, so an image's
probabilities do not depend on the images beside it.
"""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NotRequired, TypedDict, cast

import numpy as np
from numpy.typing import NDArray

from overlay.config import Precision
from overlay.errors import ErrorKind, Reason, WorkError
from overlay.sources.decode import DecodedBatch

if TYPE_CHECKING:
    from overlay.models.model_file import ModelFile  # which imports torch, and OpenVINO computes without it

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]
NO_NUMBER = Reason("the model gave no number", ErrorKind.CRASHED)
"""reason of an image whose probabilities are NaN: fp16 overflowed, or weights are NaN"""
BATCHES_ON_GPU = 2
"""batches in flight on a GPU: one that is computed, and one that is copied there, or whose results are fetched"""


class DeviceMemoryError(WorkError):
    """A GPU's memory is too small for one forward pass."""


class ImageBatch(TypedDict):
    """Columns that a forward pass reads from a batch of n rows; a `DecodedBatch` has them."""

    pixels: Pixels
    """(n, size, size, 3)"""
    reason: NDArray[np.str_]
    """(n,), why a row has no pixels; empty where it has them"""
    error_kind: NDArray[np.str_]
    """(n,) `ErrorKind` of the reason; empty where there is none"""


class BatchScores(TypedDict):
    """Columns that a forward pass gives for n rows."""

    reason: NDArray[np.str_]
    """(n,), why a row has no probabilities; empty where it has them"""
    error_kind: NDArray[np.str_]
    """(n,) `ErrorKind` of the reason; empty where there is none"""
    probabilities: Floats
    """(n, classes); NaN where there is a reason"""
    precision: NDArray[np.str_]
    """(n,): bf16, fp16, fp32 or int8"""
    seconds_forward: NDArray[np.float64]
    """(n,), each image's share of the batch's time by the clock; time that two batches share counts once"""
    embedding: NotRequired[Floats]
    """(n, d), input of the network's last layer, where it was asked for; NaN where there is a reason"""


class ScoredBatch(BatchScores):
    """Columns of n scored rows of a manifest: those of `DecodedBatch` with scores instead of pixels."""

    row: NDArray[np.int64]
    bytes: NDArray[np.int64]
    seconds_read: NDArray[np.float64]
    seconds_decode: NDArray[np.float64]


@dataclass(frozen=True)
class OpenVinoModel:
    """A model in OpenVINO's own format."""

    xml: bytes
    weights: bytes


@dataclass(frozen=True)
class EnginePlan:
    """Engine plan: a converted model, which can be pickled, for an engine of this process or another."""

    kind: Literal["torch", "compile", "openvino"]
    device: Literal["cpu", "cuda"]
    precision: Precision
    model: "ModelFile | OpenVinoModel"
    classes: int
    others: "tuple[ModelFile | OpenVinoModel, ...]" = ()
    """models whose probabilities are averaged with those of ``model``"""

    @property
    def in_flight(self) -> int:
        """Batches that an engine of this plan takes at one time, each from a thread of its own."""
        return BATCHES_ON_GPU if self.device == "cuda" else 1

    def __str__(self) -> str:
        averaged = f", mean of {1 + len(self.others)} models" if self.others else ""
        return f"{self.kind} on {self.device}{averaged}"


@dataclass(frozen=True)
class Scores:
    """Probabilities and embeddings of n images."""

    probabilities: Floats
    """(n, classes)"""
    embeddings: Floats
    """(n, d), input of the network's last layer"""


@dataclass(frozen=True)
class ThreadLayout:
    """Division of a batch over the threads of this process."""

    chunk: int
    """images that one thread takes at a time"""
    streams: int
    """chunks that run side by side"""
    cores: int
    """CPU cores for all streams together"""


class Forward:
    """Forward pass of an engine; its subclasses hold the model."""

    precision: str
    """number format of the computation: bf16, fp16, fp32 or int8"""
    embedding_size: int

    def run(self, chunks: list[Pixels]) -> list[tuple[Floats, Floats]]:
        """Return probabilities and embeddings of chunks of one shape, (chunk, size, size, 3).

        Raises:
            DeviceMemoryError: the GPU's memory is too small for a chunk.
        """
        raise NotImplementedError


class MeanForward(Forward):
    """Forward pass of several models on the same images: mean of their probabilities, embeddings of the first."""

    def __init__(self, members: Sequence[Forward]) -> None:
        self._members = members
        self.precision, self.embedding_size = members[0].precision, members[0].embedding_size

    def run(self, chunks: list[Pixels]) -> list[tuple[Floats, Floats]]:
        """Return mean probabilities, and embeddings of the first model, of chunks of one shape."""
        results = [member.run(chunks) for member in self._members]
        return [
            (np.asarray(np.mean([each[0] for each in parts], axis=0, dtype=np.float32)), parts[0][1])
            for parts in zip(*results, strict=True)
        ]


class Engine:
    """Inference engine: uint8 images to class probabilities, with test-time flips where they are asked for.

    As many threads as the plan has batches in flight may call it at one time.
    """

    def __init__(self, forward: Forward, classes: int, chunk: int, flips: bool) -> None:
        self._forward, self.classes, self._flips = forward, classes, flips
        self.chunk = chunk
        """images in one forward pass; halved where a GPU's memory is too small for it"""
        self.precision = forward.precision
        """number format of the computation: bf16, fp16, fp32 or int8"""
        self.embedding_size = forward.embedding_size
        self._lock = threading.Lock()
        self._counted_until = 0.0

    def __call__(self, images: Pixels) -> Scores:
        """Classify images, uint8 (n, size, size, 3)."""
        scores = self._scores(images)
        if not self._flips:
            return scores
        mirrored = self._scores(images[:, :, ::-1])
        mean: Floats = (scores.probabilities + mirrored.probabilities) / np.float32(2)
        return Scores(mean, scores.embeddings)

    def busy_seconds(self, began: float) -> float:
        """Return the seconds from ``began``, of `time.perf_counter`, to now that no other call has counted.

        The sum over all calls is the time in which the engine had at least one batch.
        """
        with self._lock:
            now = time.perf_counter()
            seconds = now - max(began, self._counted_until)
            self._counted_until = now
        return seconds

    def _scores(self, images: Pixels) -> Scores:
        while True:
            chunk = self.chunk
            try:
                return self._score_chunks(images, chunk)
            except DeviceMemoryError as error:
                self._halve_chunk(chunk, error)

    def _halve_chunk(self, chunk: int, error: DeviceMemoryError) -> None:
        """Halve a chunk for which a GPU's memory is too small; another thread may have done so.

        Raises:
            WorkError: a chunk is one image already.
        """
        if chunk == 1:
            raise WorkError("the GPU's memory is too small for one image; use --device cpu") from error
        with self._lock:
            if self.chunk == chunk:
                self.chunk = chunk // 2
                print(f"the GPU's memory is too small for {chunk} images in one forward pass; now {self.chunk}")

    def _score_chunks(self, images: Pixels, chunk: int) -> Scores:
        starts = range(0, len(images), chunk)
        chunks = [np.ascontiguousarray(images[start : start + chunk]) for start in starts]
        if chunks and (missing := chunk - len(chunks[-1])):
            chunks[-1] = np.concatenate([chunks[-1], np.repeat(chunks[-1][-1:], missing, axis=0)])
        results = self._forward.run(chunks)
        empty = [np.empty((0, size), np.float32) for size in (self.classes, self.embedding_size)]
        probabilities, embeddings = (
            np.concatenate([first, *(result[which] for result in results)])[: len(images)]
            for which, first in enumerate(empty)
        )
        return Scores(probabilities, embeddings)


def score_rows(engine: Engine, rows: DecodedBatch, embeddings: bool = False) -> ScoredBatch:
    """Replace the pixels of a batch by their scores."""
    return {
        "row": rows["row"],
        "bytes": rows["bytes"],
        "seconds_read": rows["seconds_read"],
        "seconds_decode": rows["seconds_decode"],
        **score_images(engine, rows, embeddings),
    }


def replace_pixels(engine: Engine, rows: ImageBatch, embeddings: bool = False) -> BatchScores:
    """Replace the pixels of a batch by their scores; all other columns of the batch stay."""
    others = {name: column for name, column in rows.items() if name != "pixels"}
    return cast(BatchScores, others | score_images(engine, rows, embeddings))


def score_images(engine: Engine, rows: ImageBatch, embeddings: bool = False) -> BatchScores:
    """Classify the images of a batch, with ``embedding`` where it is asked for.

    Rows with a reason take no part in the forward pass. An image for which the model gives NaN gets a reason, too.
    """
    images = rows["reason"] == ""
    probabilities = np.full((len(images), engine.classes), np.nan, np.float32)
    embedded = np.full((len(images), engine.embedding_size), np.nan, np.float32)
    seconds = np.zeros(len(images))
    if images.any():
        began = time.perf_counter()
        scores = engine(rows["pixels"] if images.all() else rows["pixels"][images])
        seconds[images] = engine.busy_seconds(began) / images.sum()
        probabilities[images], embedded[images] = scores.probabilities, scores.embeddings
    numbers = np.isfinite(probabilities).all(axis=1)
    scored: BatchScores = {
        "reason": np.where(images & ~numbers, NO_NUMBER, rows["reason"]),
        "error_kind": np.where(images & ~numbers, NO_NUMBER.kind, rows["error_kind"]),
        "probabilities": probabilities,
        "seconds_forward": seconds,
        "precision": np.full(len(images), engine.precision),
    }
    if embeddings:
        scored["embedding"] = embedded
    return scored
