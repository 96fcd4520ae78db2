"""Options of `overlay export`."""

from dataclasses import dataclass, field
from typing import Literal

from overlay.config.common import Legacy, LocalPlace


@dataclass(frozen=True)
class Export:
    """Export a model for other programs: safetensors, or ONNX with normalisation and softmax inside."""

    model: LocalPlace
    """a model file, or the folder of a run"""
    format: Literal["safetensors", "onnx"]
    """safetensors has the weights and the card, onnx the network and the card"""
    out: LocalPlace | None = None
    """output file; default is beside the model, with the format as its suffix"""
    legacy: Legacy = field(default_factory=Legacy)
