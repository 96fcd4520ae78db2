"""What runs a model: torch, torch.compile or OpenVINO, in bf16, fp16, fp32 or int8.

    plan = prepare(model.load("run"))   # in the process that asked; plans travel to others
    engine = open_engine(plan)          # in the process that computes
    engine(pixels).probabilities

On CPUs a batch is cut into small chunks that run side by side, each on a thread of its own: they never wait for each
other, so cores that also decode images lose nothing. All chunks have one shape, the last one filled up, so what an
image gets does not depend on the images beside it.
"""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from overlay.config import Precision

if TYPE_CHECKING:
    from overlay.models.model_file import ModelFile  # which imports torch, and OpenVINO computes without it

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]
Columns = dict[str, NDArray[Any]]
NO_NUMBER = "the model gave no number"
"""why an image has no label whose probabilities are NaN, as of fp16 that overflowed or of weights that are NaN"""


@dataclass(frozen=True)
class OpenVinoModel:
    """A model in OpenVINO's own format."""

    xml: bytes
    weights: bytes


@dataclass(frozen=True)
class EnginePlan:
    """A model, ready to be opened by an engine in this process or another."""

    kind: Literal["torch", "compile", "openvino"]
    device: Literal["cpu", "cuda"]
    precision: Precision
    model: "ModelFile | OpenVinoModel"
    classes: int

    def __str__(self) -> str:
        return f"{self.kind} on {self.device}"


@dataclass(frozen=True)
class Scores:
    """What a model says of n images."""

    probabilities: Floats
    """(n, classes)"""
    embeddings: Floats
    """(n, d), what the network's last layer sees"""


class Forward:
    """The forward pass of an engine; its subclasses hold the model."""

    precision: str
    """what it computes in: bf16, fp16, fp32 or int8"""
    embedding_size: int

    def run(self, chunks: list[Pixels]) -> list[tuple[Floats, Floats]]:
        """Return probabilities and embeddings of chunks of one shape, (chunk, size, size, 3)."""
        raise NotImplementedError


class Engine:
    """A model that takes images and gives probabilities."""

    def __init__(self, forward: Forward, classes: int, chunk: int, flips: bool) -> None:
        self._forward, self.classes, self._chunk, self._flips = forward, classes, chunk, flips
        self.precision = forward.precision
        """what it computes in: bf16, fp16, fp32 or int8"""
        self.embedding_size = forward.embedding_size

    def __call__(self, images: Pixels) -> Scores:
        """Classify images, uint8 (n, size, size, 3)."""
        scores = self._scores(images)
        if not self._flips:
            return scores
        mirrored = self._scores(images[:, :, ::-1])
        mean: Floats = (scores.probabilities + mirrored.probabilities) / np.float32(2)
        return Scores(mean, scores.embeddings)

    def _scores(self, images: Pixels) -> Scores:
        starts = range(0, len(images), self._chunk)
        chunks = [np.ascontiguousarray(images[start : start + self._chunk]) for start in starts]
        if chunks and (missing := self._chunk - len(chunks[-1])):
            chunks[-1] = np.concatenate([chunks[-1], np.repeat(chunks[-1][-1:], missing, axis=0)])
        results = self._forward.run(chunks)
        empty = [np.empty((0, size), np.float32) for size in (self.classes, self.embedding_size)]
        probabilities, embeddings = (
            np.concatenate([first, *(result[which] for result in results)])[: len(images)]
            for which, first in enumerate(empty)
        )
        return Scores(probabilities, embeddings)


def score_rows(engine: Engine, rows: Columns, embeddings: bool = False) -> Columns:
    """Replace the column ``pixels`` of a batch by what the model says.

    ``pixels`` is uint8 (n, size, size, 3), ``reason`` a text (n,), empty where the pixels are an image. New are
    ``probabilities`` float32 (n, classes), ``embedding`` float32 (n, d) where it is asked for, both NaN where there is
    a reason, ``precision`` (n,), and ``seconds_forward`` float64 (n,), each image's share of the time. An image for
    which the model gives NaN gets a reason, too.
    """
    images = rows["reason"] == ""
    probabilities = np.full((len(images), engine.classes), np.nan, np.float32)
    embedded = np.full((len(images), engine.embedding_size), np.nan, np.float32)
    seconds = np.zeros(len(images))
    if images.any():
        began = time.perf_counter()
        scores = engine(rows["pixels"] if images.all() else rows["pixels"][images])
        seconds[images] = (time.perf_counter() - began) / images.sum()
        probabilities[images], embedded[images] = scores.probabilities, scores.embeddings
    numbers = np.isfinite(probabilities).all(axis=1)
    scored: Columns = {name: column for name, column in rows.items() if name != "pixels"}
    scored["reason"] = np.where(images & ~numbers, NO_NUMBER, rows["reason"])
    scored |= {"probabilities": probabilities, "seconds_forward": seconds}
    scored["precision"] = np.full(len(images), engine.precision)
    return scored | ({"embedding": embedded} if embeddings else {})
