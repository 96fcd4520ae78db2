"""Small jobs: inference in the command's own process, without Ray."""

import os
from typing import Literal

import torch

from overlay.errors import RequestError

SMALL_JOB_IMAGES = 1000
"""most images for which Ray is not started: its start takes as long as several hundred images on a CPU"""


def is_small_job(images: int) -> bool:
    """Whether so many images are classified in this process: few, and no cluster was asked for by RAY_ADDRESS."""
    return images <= SMALL_JOB_IMAGES and not os.environ.get("RAY_ADDRESS")


def has_device(device: Literal["cpu", "cuda"]) -> bool:
    """Whether this process can use a device: Ray hides the GPUs from tasks that reserve none."""
    return device == "cpu" or torch.cuda.is_available()


def choose_local_device(wanted: str) -> Literal["cpu", "cuda"]:
    """Resolve the option ``device`` for this process: auto is cuda where this machine has a GPU.

    Raises:
        RequestError: ``wanted`` is cuda and this machine has no GPU.
    """
    if wanted == "cuda" and not torch.cuda.is_available():
        raise RequestError("device is cuda, but this machine has no GPU; choose cpu, or set RAY_ADDRESS")
    return "cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu"
