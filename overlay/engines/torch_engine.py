"""Inference engines torch and torch.compile."""

import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib import import_module
from typing import Any, Literal

import numpy as np
import torch

from overlay.config import Precision
from overlay.engines.base import BATCHES_ON_GPU, DeviceMemoryError, Floats, Forward, Pixels, ThreadLayout
from overlay.engines.inference_module import InferenceModule
from overlay.models.device import has_bf16
from overlay.models.device_copy import DeviceCopier, Download, Upload
from overlay.models.model_file import ModelFile

_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


class TorchForward(Forward):
    """Forward pass in torch, one thread a stream, each on its share of the cores.

    On a GPU one thread queues all computation, as CUDA graphs need it; others copy the next chunk meanwhile, and wait
    for the results of the last.
    """

    def __init__(
        self,
        file: ModelFile,
        device: Literal["cpu", "cuda"],
        precision: Precision,
        threads: ThreadLayout,
        compiled: bool,
    ) -> None:
        self._device = torch.device(device)
        without_bf16 = "fp16" if device == "cuda" else "fp32"
        automatic = "bf16" if has_bf16(self._device) else without_bf16
        self.precision = automatic if precision == "auto" else precision
        if self.precision == "fp32":
            torch.backends.cudnn.allow_tf32 = False  # else a GPU's convolutions would be TF32
        if compiled:  # the compiler advises its developers and TF32, which is not for who asked for a prediction
            warnings.filterwarnings("ignore", category=UserWarning, module=r"torch\._inductor\.")
        classifier = InferenceModule(file, _TYPES[self.precision]).eval()
        self.embedding_size = classifier.embedding_size
        classifier = classifier.to(device=self._device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._copier = DeviceCopier(self._device)
        # A thread that starts with its own number of threads leaves that of the others alone.
        each = threads.cores // threads.streams
        self._computing = (
            _graph_thread()
            if compiled and device == "cuda"
            else ThreadPoolExecutor(threads.streams, initializer=torch.set_num_threads, initargs=(each,))
        )
        self._chunks = ThreadPoolExecutor(BATCHES_ON_GPU if device == "cuda" else threads.streams)
        self._classifier = (
            torch.compile(classifier, dynamic=False, options=_options(device)) if compiled else classifier
        )
        if compiled:
            size = file.card.size
            self.run([np.zeros((threads.chunk, size, size, 3), np.uint8)])

    def run(self, chunks: list[Pixels]) -> list[tuple[Floats, Floats]]:
        """Return probabilities and embeddings of each chunk; several threads may call it.

        Raises:
            DeviceMemoryError: the GPU's memory is too small for a chunk.
        """
        return list(self._chunks.map(self._forward, chunks))

    def _forward(self, chunk: Pixels) -> tuple[Floats, Floats]:
        """Copy a chunk to the device, have it computed, and wait for the results."""
        try:
            upload = self._copier.upload(chunk)
            probabilities, embeddings = self._computing.submit(self._compute, upload).result()
            return probabilities.array(), embeddings.array()
        except torch.OutOfMemoryError as error:
            raise DeviceMemoryError(str(error)) from error

    def _compute(self, upload: Upload) -> tuple[Download, Download]:
        with torch.inference_mode():
            probabilities, embeddings = self._classifier(upload.tensor())
            # CUDA graphs write the next results to the same place: these are copied before, in the same queue.
            return self._copier.download(probabilities), self._copier.download(embeddings)


@cache
def _graph_thread() -> ThreadPoolExecutor:
    """Return the thread that computes all compiled networks of this process on a GPU.

    Torch keeps CUDA graphs for each thread; older versions (2.11) only for the one that imported their module, and fail
    in any other: https://github.com/pytorch/pytorch/issues/123177.
    """
    return ThreadPoolExecutor(1, initializer=import_module, initargs=("torch._inductor.cudagraph_trees",))


def _options(device: str) -> dict[str, str | int | bool | Callable[..., Any]]:
    """Return inductor's options: CUDA graphs on a GPU; on a CPU, weights in the layout of their kernels."""
    return {"triton.cudagraphs": True} if device == "cuda" else {"freezing": True}
