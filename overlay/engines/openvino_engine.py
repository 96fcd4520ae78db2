"""Inference engine OpenVINO: Intel's compiler for networks on CPUs, with bf16 on x86 and ARM, and int8.

The model is sent to other processes in OpenVINO's own format, so one that only computes needs no torch.
"""

import logging
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from overlay.config import Precision
from overlay.engines.base import Floats, Forward, OpenVinoModel, Pixels, ThreadLayout

if TYPE_CHECKING:
    from overlay.models.model_file import ModelFile  # which imports torch

# OpenVINO and NNCF tell Google Analytics that they run, unless the package that does it can't be imported.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]

import openvino as ov  # noqa: E402

_HINTS = {"bf16": "bf16", "fp32": "f32", "int8": "f32"}


def convert_to_openvino(file: "ModelFile") -> OpenVinoModel:
    """Convert a model; its weights stay float32."""
    return _to_bytes(_converted(file))


def quantise_to_int8(file: "ModelFile", calibration: Pixels) -> OpenVinoModel:
    """Quantise a model to int8, calibrated with every other image of ``calibration``, (n, size, size, 3).

    The agreement with fp32 is measured on the images between them, and printed. Activations are quantised by their
    ranges on the calibration images, weights by channel, biases are corrected: NNCF's post-training quantisation
    (Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction", for the biases).
    """
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # says that there is no CUDA
    import nncf

    logging.getLogger("nncf").setLevel(logging.ERROR)
    exact = _converted(file)
    images = [calibration[index : index + 1] for index in range(len(calibration))]
    seen, unseen = images[::2], images[1::2] or images
    quantised = nncf.quantize(exact, nncf.Dataset(seen), subset_size=len(seen), preset=nncf.QuantizationPreset.MIXED)
    before, after = (_probabilities(each, unseen) for each in (exact, quantised))
    same = int((before.argmax(axis=1) == after.argmax(axis=1)).sum())
    print(
        f"int8: the same label as fp32 on {same} of {len(unseen)} other images, probabilities differ by "
        f"{np.abs(before - after).mean():.4f} in the mean and {np.abs(before - after).max():.4f} at most"
    )
    return _to_bytes(quantised)


class OpenVinoForward(Forward):
    """Forward pass in OpenVINO, one inference request a stream, each on its share of the cores."""

    def __init__(self, model: OpenVinoModel, precision: Precision, threads: ThreadLayout) -> None:
        core = ov.Core()
        if precision == "auto":
            precision = "bf16" if "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES") else "fp32"
        read = core.read_model(model.xml, model.weights)
        shape = read.input(0).get_partial_shape()
        shape[0] = threads.chunk
        read.reshape(shape)
        self.embedding_size = read.output(1).get_partial_shape()[1].get_length()
        settings: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": _HINTS[precision],
            "NUM_STREAMS": threads.streams,
            "INFERENCE_NUM_THREADS": threads.cores,
            "ENABLE_CPU_PINNING": False,  # other processes decode images on the same cores
        }
        compiled = core.compile_model(read, "CPU", settings)
        # The precision is a hint to OpenVINO, and a CPU without bf16 takes float32.
        exact = "fp32" if compiled.get_property("INFERENCE_PRECISION_HINT") == ov.Type.f32 else "bf16"
        self.precision = "int8" if precision == "int8" else exact
        self._queue = ov.AsyncInferQueue(compiled, threads.streams)
        self._queue.set_callback(self._take)
        self._results: dict[int, tuple[Floats, Floats]] = {}

    def run(self, chunks: list[Pixels]) -> list[tuple[Floats, Floats]]:
        """Return probabilities and embeddings of each chunk."""
        for number, chunk in enumerate(chunks):
            self._queue.start_async({0: chunk}, number)
        self._queue.wait_all()
        return [self._results.pop(number) for number in range(len(chunks))]

    def _take(self, request: ov.InferRequest, number: int) -> None:
        probabilities, embeddings = (request.get_output_tensor(output).data.copy() for output in (0, 1))
        self._results[number] = probabilities, embeddings


def _converted(file: "ModelFile") -> ov.Model:
    import torch

    from overlay.engines.inference_module import InferenceModule

    pixels = torch.zeros(2, file.card.size, file.card.size, 3, dtype=torch.uint8)
    with torch.no_grad():
        exported = torch.export.export(
            InferenceModule(file).eval(), (pixels,), dynamic_shapes=({0: torch.export.Dim("images", min=1, max=4096)},)
        )
        return ov.convert_model(exported)


def _probabilities(model: ov.Model, images: list[Pixels]) -> Floats:
    compiled = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return np.concatenate([compiled(image)[0] for image in images])


def _to_bytes(model: ov.Model) -> OpenVinoModel:
    with tempfile.TemporaryDirectory(prefix="overlay-") as folder:
        file = Path(folder, "model.xml")
        ov.save_model(model, file, compress_to_fp16=False)
        return OpenVinoModel(file.read_bytes(), file.with_suffix(".bin").read_bytes())
