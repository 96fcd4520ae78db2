"""Options of `overlay export`."""

from dataclasses import dataclass, field
from typing import Literal

from overlay.config.common import Legacy, LogFormat, Place


@dataclass(frozen=True)
class Export:
    """Export a model for other programs: safetensors, or ONNX with normalisation and softmax inside."""

    model: Place
    """a model file, or the folder of a run, on a disk or in a bucket (s3://, gs://)"""
    format: Literal["safetensors", "onnx"]
    """safetensors has the weights and the card, onnx the network and the card"""
    out: Place | None = None
    """output file, on a disk or in a bucket; default is beside the model, with the format as its suffix"""
    legacy: Legacy = field(default_factory=Legacy)
    log_format: LogFormat = "text"
    """text, or json: each printed line is a JSON object"""
