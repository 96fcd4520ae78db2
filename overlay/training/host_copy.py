"""Copies of a training's state in pinned host memory, made by a GPU while its training goes on."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from overlay.models.device_copy import CopyStream


@dataclass(frozen=True)
class StateCopy:
    """Copy of a state, on its way to the host."""

    _state: Any
    _copied: torch.cuda.Event | None

    def wait(self) -> Any:  # noqa: ANN401
        """Wait for the copies, and return the state: mappings as dicts, sequences as lists, tensors on the host."""
        if self._copied is not None:
            self._copied.synchronize()
        return self._state


class HostCopies:
    """Reused host memory of a state's tensors, one block for each type of numbers.

    A thousand small tensors of one block are one storage, which `torch.save` writes at once.
    """

    def __init__(self, stream: CopyStream) -> None:
        self._stream = stream
        self._blocks: dict[torch.dtype, Tensor] = {}

    @torch.no_grad()
    def copy(self, state: object) -> StateCopy:
        """Queue the copies of all tensors, in the order of this thread's work on the device; they overwrite the last.

        ``state`` consists of mappings, lists and tuples; what is neither these nor a tensor is kept as it is. Tensors
        keep their strides, and are dense.
        """
        sizes = Counter[torch.dtype]()
        for tensor in _tensors(state):
            sizes[tensor.dtype] += tensor.numel()
        for dtype, size in sizes.items():
            if dtype not in self._blocks or len(self._blocks[dtype]) != size:
                self._blocks[dtype] = torch.empty(size, dtype=dtype, pin_memory=self._stream.pinned)
        return StateCopy(self._copy(state, Counter()), self._stream.mark_computed())

    def _copy(self, value: object, taken: Counter[torch.dtype]) -> object:
        if isinstance(value, Tensor):
            place = self._blocks[value.dtype].as_strided(value.shape, value.stride(), taken[value.dtype])
            taken[value.dtype] += value.numel()
            return place.copy_(value, non_blocking=True)
        if isinstance(value, Mapping):
            return {name: self._copy(each, taken) for name, each in value.items()}
        if isinstance(value, list | tuple):
            return [self._copy(each, taken) for each in value]
        return value


def _tensors(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _tensors(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _tensors(each)
