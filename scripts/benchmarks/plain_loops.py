"""Baselines of batch inference in this process: a DataLoader loop, and Ray's documented pipeline."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from overlay.models import model_file
from overlay.models.device import use_all_cores
from overlay.models.network import IMAGENET_MEAN, IMAGENET_STD

INPUT_SIZE = 224
"""pixels of the input's sides"""
_PREPROCESS = v2.Compose(
    [
        v2.ToImage(),
        v2.Resize((INPUT_SIZE, INPUT_SIZE)),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(IMAGENET_MEAN, IMAGENET_STD),
    ]
)


@dataclass(frozen=True)
class TimedJob:
    """Time of a job that classified all images."""

    rate: float
    """images/s from the first batch of results to the last"""
    seconds: float
    """whole job, including start-up"""


class _Folder(Dataset[Tensor]):
    """Dataset of the image files of a folder, as in most scripts."""

    def __init__(self, folder: Path) -> None:
        self._paths = sorted(folder.iterdir())

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Tensor:
        with Image.open(self._paths[index]) as image:
            tensor: Tensor = _PREPROCESS(image.convert("RGB"))
        return tensor


def time_batches(batches: Iterator[int]) -> TimedJob:
    """Time a job that yields the size of each batch when its result is complete."""
    began = time.perf_counter()
    next(batches)
    started, rest = time.perf_counter(), 0
    for size in batches:
        rest += size
    ended = time.perf_counter()
    return TimedJob(rest / (ended - started), ended - began)


def data_loader_loop(images: Path, file: Path, batch: int, device: str, bf16: bool) -> Iterator[int]:
    """Loop over a DataLoader; yield the size of each batch when its result is complete."""
    network = model_file.build_network(model_file.load_model_file(file)).to(device)
    if bf16:
        network = network.to(memory_format=torch.channels_last)
    with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=bf16):
        for pixels in DataLoader(_Folder(images), batch_size=batch, num_workers=joblib.cpu_count()):
            moved = pixels.to(device)
            if bf16:
                moved = moved.contiguous(memory_format=torch.channels_last)
            network(moved).float().softmax(dim=1).cpu()
            yield len(pixels)


class _Classify:
    """Actor of Ray's documented pipeline (docs.ray.io, "Image classification batch inference with PyTorch")."""

    def __init__(self, file: str, device: str) -> None:
        use_all_cores()
        self._device = device
        self._network: nn.Module = model_file.build_network(model_file.load_model_file(file)).to(device)

    def __call__(self, rows: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Classify a batch."""
        with torch.inference_mode():
            logits = self._network(torch.from_numpy(np.stack(list(rows["image"]))).to(self._device))
        return {"probabilities": logits.softmax(dim=1).cpu().numpy()}


def ray_documented_pipeline(images: Path, file: Path, batch: int, device: str) -> Iterator[int]:
    """Run Ray's documented pipeline; yield the size of each batch when its result is complete."""
    import ray.data

    rows = ray.data.read_images(str(images), mode="RGB")
    rows = rows.map(lambda row: {"image": _PREPROCESS(row["image"]).numpy()})
    scored = rows.map_batches(
        _Classify,
        fn_constructor_args=(str(file), device),
        compute=ray.data.ActorPoolStrategy(size=1),
        batch_size=batch,
        num_cpus=0.9,
        num_gpus=int(device == "cuda"),
    )
    for block in scored.iter_batches(batch_size=None):
        yield len(block["probabilities"])
