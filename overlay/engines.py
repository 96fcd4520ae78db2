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
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

import joblib
import numpy as np
from numpy.typing import NDArray

from overlay.config import EngineKind, Precision, check_engine
from overlay.errors import RequestError

if TYPE_CHECKING:
    from overlay.models.model_file import ModelFile  # which imports torch, and OpenVINO computes without it

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]
Columns = dict[str, NDArray[Any]]
NO_NUMBER = "the model gave no number"
"""why an image has no label whose probabilities are NaN, as of fp16 that overflowed or of weights that are NaN"""
CHUNK = 4
"""images that one CPU core takes at a time: enough to read the weights seldom, and few enough for its cache"""


@dataclass(frozen=True)
class OpenVinoModel:
    """A model in OpenVINO's own format."""

    xml: bytes
    weights: bytes


@dataclass(frozen=True)
class Plan:
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


def prepare(
    file: "ModelFile",
    kind: EngineKind = "auto",
    device: Literal["cpu", "cuda"] = "cpu",
    precision: Precision = "auto",
    calibration: Pixels | None = None,
) -> Plan:
    """Choose the engine, and convert the model for it.

    ``auto`` takes openvino on CPUs where it is installed, and torch elsewhere. int8 needs ``calibration``: images as
    the model sees them, (n, size, size, 3), of the kind that it is for; how well it agrees with fp32 is printed.

    Raises:
        RequestError: the engine is not installed, or doesn't fit the device or the precision.
    """
    check_engine(kind, precision)
    chosen = kind
    if chosen == "auto":
        there = precision == "int8" or (precision != "fp16" and find_spec("openvino") is not None)
        chosen = "openvino" if device == "cpu" and there else "torch"
    if precision == "int8" and chosen != "openvino":
        raise RequestError(f"precision is int8 and device is {device}; int8 is for CPUs")
    if chosen != "openvino":
        return Plan(chosen, device, precision, file, len(file.card.classes))
    if device != "cpu":
        raise RequestError(f"engine is openvino and device is {device}; OpenVINO is for CPUs here")
    for package in ("openvino", *(("nncf",) if precision == "int8" else ())):
        if find_spec(package) is None:
            raise RequestError(f"{package} is not installed; install overlay[openvino], or choose --engine torch")
    from overlay import openvino_engine

    if precision != "int8":
        converted = openvino_engine.convert(file)
    elif calibration is None or len(calibration) == 0:
        raise RequestError("precision is int8, and there are no images to calibrate it with")
    else:
        converted = openvino_engine.quantise(file, calibration)
    return Plan("openvino", device, precision, converted, len(file.card.classes))


def open_engine(plan: Plan, *, batch_size: int = 32, share: int = 1, flips: bool = False) -> "Engine":
    """Load a model onto its device.

    ``batch_size``: images in one call, mostly. ``share``: engines on this machine, which divide its cores.
    ``flips``: average the probabilities of each image and of its mirror image, left for right.
    """
    cores = max(1, joblib.cpu_count() // share)
    if plan.device == "cuda":
        chunk, streams = batch_size, 1
    else:
        chunk = min(CHUNK, max(1, batch_size // cores))
        streams = min(cores, max(1, batch_size // chunk))
    if isinstance(plan.model, OpenVinoModel):
        from overlay.openvino_engine import OpenVinoForward

        forward: Forward = OpenVinoForward(plan.model, plan.precision, chunk, streams, cores)
    else:
        from overlay.torch_engine import TorchForward

        forward = TorchForward(plan.model, plan.device, plan.precision, chunk, streams, cores, plan.kind == "compile")
    return Engine(forward, plan.classes, chunk, flips)


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
