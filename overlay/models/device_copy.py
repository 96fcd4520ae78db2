"""Copies between host and device, on a GPU beside its computation: pinned memory, and a stream of their own.

    copier = DeviceCopier(device)
    upload = copier.upload(pixels)                # in any thread; the copy is under way
    download = copier.download(network(upload.tensor()))  # in the thread that computes; nothing waits yet
    numbers = download.array()                    # waits for the result

An array is copied once, into pinned memory, from which a GPU copies by itself. Torch keeps pinned memory, and gives it
out again once the copies from it are done. On a CPU the same code runs, and every copy is done when its call returns.
Source: https://docs.pytorch.org/docs/stable/notes/cuda.html, on streams and pinned buffers.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class CopyStream:
    """Order of the copies to a device and its computation; on a CPU all is done in the order of the calls."""

    pinned = False
    """whether host memory of copies is pinned"""

    def copying(self) -> AbstractContextManager[object]:
        """Return the context in which copies to the device are queued."""
        return nullcontext()

    def mark_copied(self) -> torch.cuda.Event | None:
        """Return the moment when all queued copies are done; None where they are."""
        return None

    def take(self, tensor: Tensor, copied: torch.cuda.Event | None) -> None:
        """Let what this thread queues next on the device wait for the copy of a tensor."""

    def mark_computed(self) -> torch.cuda.Event | None:
        """Return the moment when all that this thread has queued on the device is done; None where it is."""
        return None


class CudaCopyStream(CopyStream):
    """Order of copies and computation on a GPU, where copies have a stream of their own."""

    pinned = True

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def copying(self) -> AbstractContextManager[object]:
        """Return the context in which copies to the device are queued."""
        return torch.cuda.stream(self._stream)

    def mark_copied(self) -> torch.cuda.Event | None:
        """Return the moment when all queued copies are done."""
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(self._stream)
        return event

    def take(self, tensor: Tensor, copied: torch.cuda.Event | None) -> None:
        """Let what this thread queues next on the device wait for the copy of a tensor.

        The tensor's memory was allocated for the stream of copies, which may use it again only once this thread's
        stream is done with it.
        """
        assert copied is not None
        computing = torch.cuda.current_stream(self._device)
        computing.wait_event(copied)
        tensor.record_stream(computing)

    def mark_computed(self) -> torch.cuda.Event | None:
        """Return the moment when all that this thread has queued on the device is done."""
        event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]  # else its wait would keep a core busy
        event.record(torch.cuda.current_stream(self._device))
        return event


class Upload:
    """Array on its way to a device."""

    def __init__(self, stream: CopyStream, tensor: Tensor) -> None:
        self._stream, self._tensor, self._copied = stream, tensor, stream.mark_copied()

    def tensor(self) -> Tensor:
        """Return the tensor on the device, for the thread that computes; it does not wait, but the device does."""
        self._stream.take(self._tensor, self._copied)
        return self._tensor


class Download:
    """Tensor on its way to the host."""

    def __init__(self, stream: CopyStream, host: Tensor) -> None:
        self._host, self._computed = host, stream.mark_computed()

    def array(self) -> NDArray[Any]:
        """Wait for the copy, and return the array."""
        if self._computed is not None:
            self._computed.synchronize()
        array: NDArray[Any] = self._host.numpy()
        return array


class DeviceCopier:
    """Copier between the host and one device; all threads may use it."""

    def __init__(self, device: torch.device, stream: CopyStream | None = None) -> None:
        self._device = device
        self._stream = stream or (CudaCopyStream(device) if device.type == "cuda" else CopyStream())

    def upload(self, array: NDArray[Any]) -> Upload:
        """Begin to copy an array to the device; the array may change or go once this returns."""
        with self._stream.copying():  # pinned memory belongs to the stream's GPU, too
            host = torch.empty(array.shape, dtype=_torch_type(array), pin_memory=self._stream.pinned)
            np.copyto(host.numpy(), array)
            return Upload(self._stream, host.to(self._device, non_blocking=True))

    def download(self, tensor: Tensor) -> Download:
        """Begin to copy a tensor to the host, after the computation that this thread has queued."""
        host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=self._stream.pinned)
        return Download(self._stream, host.copy_(tensor, non_blocking=True))


def _torch_type(array: NDArray[Any]) -> torch.dtype:
    return torch.from_numpy(np.empty(0, array.dtype)).dtype
