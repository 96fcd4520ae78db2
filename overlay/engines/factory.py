"""Engine factory: choose, convert and open torch, torch.compile or OpenVINO."""

from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

import joblib

from overlay.config import EngineKind, Precision, check_engine
from overlay.errors import RequestError

if TYPE_CHECKING:
    from overlay.models.model_file import ModelFile  # which imports torch, and OpenVINO computes without it
from overlay.engines.base import Engine, EnginePlan, Forward, OpenVinoModel, Pixels

CHUNK = 4
"""images that one CPU core takes at a time: enough to read the weights seldom, and few enough for its cache"""


def prepare_engine(
    file: "ModelFile",
    kind: EngineKind = "auto",
    device: Literal["cpu", "cuda"] = "cpu",
    precision: Precision = "auto",
    calibration: Pixels | None = None,
) -> EnginePlan:
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
        return EnginePlan(chosen, device, precision, file, len(file.card.classes))
    if device != "cpu":
        raise RequestError(f"engine is openvino and device is {device}; OpenVINO is for CPUs here")
    for package in ("openvino", *(("nncf",) if precision == "int8" else ())):
        if find_spec(package) is None:
            raise RequestError(f"{package} is not installed; install overlay[openvino], or choose --engine torch")
    from overlay.engines import openvino_engine

    if precision != "int8":
        converted = openvino_engine.convert_to_openvino(file)
    elif calibration is None or len(calibration) == 0:
        raise RequestError("precision is int8, and there are no images to calibrate it with")
    else:
        converted = openvino_engine.quantise_to_int8(file, calibration)
    return EnginePlan("openvino", device, precision, converted, len(file.card.classes))


def open_engine(plan: EnginePlan, *, batch_size: int = 32, share: int = 1, flips: bool = False) -> "Engine":
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
        from overlay.engines.openvino_engine import OpenVinoForward

        forward: Forward = OpenVinoForward(plan.model, plan.precision, chunk, streams, cores)
    else:
        from overlay.engines.torch_engine import TorchForward

        forward = TorchForward(plan.model, plan.device, plan.precision, chunk, streams, cores, plan.kind == "compile")
    return Engine(forward, plan.classes, chunk, flips)
