"""Engine factory: choose, convert and open torch, torch.compile or OpenVINO."""

from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

import joblib

from overlay.config import BatchSize, EngineKind, Precision, check_engine, rows_in_batch
from overlay.engines.base import Engine, EnginePlan, Forward, MeanForward, OpenVinoModel, Pixels, ThreadLayout
from overlay.engines.chunk_size import fastest_chunk
from overlay.engines.conversion_cache import cached_conversion
from overlay.errors import RequestError

if TYPE_CHECKING:
    from overlay.models.model_file import ModelFile  # which imports torch, and OpenVINO computes without it

CHUNK = 4
"""images that one CPU core takes at a time: enough that weights are seldom read again, and few enough for its cache"""
COMPILED_CHUNK = 256
"""images in one forward pass of a compiled network on a GPU with ``batch_size`` auto: each size that is tried would be
compiled"""


def prepare_engine(
    file: "ModelFile",
    kind: EngineKind = "auto",
    device: Literal["cpu", "cuda"] = "cpu",
    precision: Precision = "auto",
    calibration: Pixels | None = None,
) -> EnginePlan:
    """Choose the engine, and convert the model for it.

    ``auto`` is openvino on CPUs where it is installed, and torch elsewhere. int8 needs ``calibration``: images as the
    model sees them, uint8 (n, size, size, 3), of the kind that it is for; the agreement with fp32 is printed.

    Raises:
        RequestError: the engine is not installed, or doesn't fit the device or the precision; or int8 has no
            ``calibration``.
    """
    check_engine(kind, precision)
    chosen = kind
    if chosen == "auto":
        there = precision == "int8" or (precision != "fp16" and find_spec("openvino") is not None)
        chosen = "openvino" if device == "cpu" and there else "torch"
    if precision == "int8" and chosen != "openvino":
        raise RequestError(f"precision is int8 and device is {device}; int8 is for CPUs")
    if chosen != "openvino":
        return EnginePlan(chosen, device, precision, file, len(file.card.classes))
    if device != "cpu":
        raise RequestError(f"engine is openvino and device is {device}; OpenVINO is for CPUs here")
    for package in ("openvino", *(("nncf",) if precision == "int8" else ())):
        if find_spec(package) is None:
            raise RequestError(f"{package} is not installed; install overlay[openvino], or choose --engine torch")
    from overlay.engines import openvino_engine

    if precision != "int8":
        converted = cached_conversion(file, openvino_engine.convert_to_openvino)
    elif calibration is None or len(calibration) == 0:
        raise RequestError("precision is int8, and there are no images to calibrate it with")
    else:
        converted = openvino_engine.quantise_to_int8(file, calibration)
    return EnginePlan("openvino", device, precision, converted, len(file.card.classes))


def prepare_engines(
    files: "Sequence[ModelFile]",
    kind: EngineKind,
    device: Literal["cpu", "cuda"],
    precision: Precision,
    calibration: Pixels | None,
) -> EnginePlan:
    """Choose the engine, and convert one model or several whose probabilities are averaged, by `prepare_engine`."""
    plans = [prepare_engine(file, kind, device, precision, calibration) for file in files]
    return replace(plans[0], others=tuple(plan.model for plan in plans[1:]))


def open_engine(plan: EnginePlan, *, batch_size: BatchSize = 32, share: int = 1, flips: bool = False) -> Engine:
    """Load the model of a plan onto its device.

    ``batch_size``: images in a usual call; with "auto", those of one forward pass on a GPU are chosen by its speed, and
    printed. ``share``: engines on this machine, which divide its cores.
    ``flips``: average the probabilities of each image and of its mirror image, left for right.
    """
    chosen = batch_size == "auto" and plan.device == "cuda"
    rows = COMPILED_CHUNK if chosen and plan.kind == "compile" else rows_in_batch(batch_size, plan.device)
    threads = thread_layout(plan, rows, max(1, joblib.cpu_count() // share))
    members = [_open_forward(plan, model, threads) for model in (plan.model, *plan.others)]
    forward = members[0] if len(members) == 1 else MeanForward(members)
    chunk = threads.chunk
    if chosen and not isinstance(plan.model, OpenVinoModel):
        chunk = chunk if plan.kind == "compile" else fastest_chunk(forward, plan.model.card.size)
        print(f"batch_size auto: {chunk} images in one forward pass")
    return Engine(forward, plan.classes, chunk, flips)


def _open_forward(plan: EnginePlan, model: "ModelFile | OpenVinoModel", threads: ThreadLayout) -> Forward:
    if isinstance(model, OpenVinoModel):
        from overlay.engines.openvino_engine import OpenVinoForward

        return OpenVinoForward(model, plan.precision, threads)
    from overlay.engines.torch_engine import TorchForward

    return TorchForward(model, plan.device, plan.precision, threads, plan.kind == "compile")


def thread_layout(plan: EnginePlan, batch_size: int, cores: int) -> ThreadLayout:
    """Divide batches over the cores: whole batches on a GPU, chunks of at most `CHUNK` images on CPUs."""
    if plan.device == "cuda":
        return ThreadLayout(batch_size, streams=1, cores=cores)
    chunk = min(CHUNK, max(1, batch_size // cores))
    return ThreadLayout(chunk, min(cores, max(1, batch_size // chunk)), cores)
