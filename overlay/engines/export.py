"""Model export to safetensors and ONNX, checked against the original on a batch of noise."""

import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from overlay.engines.inference_module import InferenceModule
from overlay.errors import RequestError, WorkError
from overlay.models import model_file
from overlay.models.model_file import ModelFile
from overlay.models.network import normalise
from overlay.models.safe_load import read_safetensors

LARGEST_DIFFERENCE = 1e-4
"""between a probability of the original and the same of the export"""
_IMAGES = 4


def export_safetensors(loaded: ModelFile, file: Path) -> float:
    """Write weights and card as safetensors; return the largest difference from the original's probabilities.

    Raises:
        WorkError: the difference exceeds `LARGEST_DIFFERENCE`.
    """
    model_file.write_safetensors(file, loaded)
    pixels, expected = _batch(loaded)
    return _checked(_probabilities(replace(loaded, state=read_safetensors(file)), pixels), expected)


def export_onnx(loaded: ModelFile, file: Path) -> float:
    """Write normalisation, network and softmax as ONNX; return the largest difference from the original.

    Input is ``pixels`` uint8 (images, size, size, 3); outputs are ``probabilities`` (images, classes) and
    ``embeddings`` (images, d), both float32. The card is JSON in the metadata, under the key overlay.

    Raises:
        RequestError: onnx, onnxscript or onnxruntime is not installed.
        WorkError: the difference exceeds `LARGEST_DIFFERENCE`.
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        if find_spec(package) is None:
            raise RequestError(f"{package} is not installed; install overlay[export]")
    import onnxruntime

    pixels, expected = _batch(loaded)
    exported = torch.onnx.export(
        InferenceModule(loaded).eval(),
        (torch.from_numpy(pixels),),
        dynamo=True,
        input_names=["pixels"],
        output_names=["probabilities", "embeddings"],
        dynamic_shapes=({0: torch.export.Dim("images", min=1, max=4096)},),
        verbose=False,
    )
    assert exported is not None  # it is None where it writes a file itself
    card = model_file.card_metadata(loaded.card)
    texts = {"classes": ",".join(loaded.card.classes)} | {
        name: card[name] for name in ("size", "resize", "mean", "std")
    }
    exported.model.metadata_props.update({name: str(value) for name, value in texts.items()})
    exported.model.metadata_props["overlay"] = json.dumps({**card, "model": loaded.sha256})
    exported.save(file, external_data=False)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return _checked(session.run(["probabilities"], {"pixels": pixels})[0], expected)


def _batch(loaded: ModelFile) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    size = loaded.card.size
    pixels = np.random.default_rng(0).integers(0, 256, (_IMAGES, size, size, 3), np.uint8)
    return pixels, _probabilities(loaded, pixels)


def _probabilities(loaded: ModelFile, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the probabilities of the plain network, in float32."""
    mean, std = torch.tensor(loaded.card.mean), torch.tensor(loaded.card.std)
    with torch.inference_mode():
        logits = model_file.build_network(loaded)(normalise(torch.from_numpy(pixels), mean, std))
        probabilities: NDArray[np.float32] = logits.softmax(dim=1).numpy()
    return probabilities


def _checked(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    difference = float(np.abs(found - expected).max())
    if not difference <= LARGEST_DIFFERENCE:  # nor NaN
        raise WorkError(f"the export's probabilities differ by {difference:.2g} from the model's; nothing was written")
    return difference
