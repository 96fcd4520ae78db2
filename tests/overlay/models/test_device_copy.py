"""On a CPU the same code runs as on a GPU; a stream that writes down its calls shows their order."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import numpy as np
import pytest
import torch

from overlay.models.device_copy import CopyStream, DeviceCopier

CPU = torch.device("cpu")


class Event:
    def __init__(self, name: str, calls: list[str]) -> None:
        self.name, self._calls = name, calls

    def synchronize(self) -> None:
        self._calls.append(f"wait for {self.name}")


class RecordedStream(CopyStream):
    def __init__(self) -> None:
        self.calls: list[str] = []

    @contextmanager
    def _copy(self) -> Iterator[None]:
        self.calls.append("begin to copy")
        yield
        self.calls.append("copies queued")

    def copying(self) -> AbstractContextManager[object]:
        return self._copy()

    def mark_copied(self) -> torch.cuda.Event | None:
        self.calls.append("mark copied")
        return Event("copied", self.calls)  # type: ignore[return-value]

    def take(self, tensor: torch.Tensor, copied: torch.cuda.Event | None) -> None:  # noqa: ARG002
        assert isinstance(copied, Event)
        self.calls.append(f"compute after {copied.name}")

    def mark_computed(self) -> torch.cuda.Event | None:
        self.calls.append("mark computed")
        return Event("computed", self.calls)  # type: ignore[return-value]


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32])
def test_an_array_comes_back_as_it_was(dtype: type[np.generic]) -> None:
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    copier = DeviceCopier(CPU)
    tensor = copier.upload(array).tensor()
    assert tensor.device == CPU
    found = copier.download(tensor).array()
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, array)


def test_an_array_may_change_or_be_read_only_once_its_copy_has_begun() -> None:
    array = np.arange(4)
    upload = DeviceCopier(CPU).upload(array)
    array[:] = 9
    assert upload.tensor().tolist() == [0, 1, 2, 3]
    array.flags.writeable = False
    assert DeviceCopier(CPU).upload(array).tensor().tolist() == [9] * 4


def test_a_tensor_may_change_once_its_copy_has_begun() -> None:
    """As those of CUDA graphs do, whose next run writes to the same place."""
    tensor = torch.arange(4)
    download = DeviceCopier(CPU).download(tensor)
    tensor.fill_(9)
    assert download.array().tolist() == [0, 1, 2, 3]


def test_the_device_waits_for_the_copy_and_the_host_for_the_result() -> None:
    stream = RecordedStream()
    copier = DeviceCopier(CPU, stream)
    first, second = copier.upload(np.zeros(2)), copier.upload(np.ones(2))
    uploaded = ["begin to copy", "mark copied", "copies queued"]
    assert stream.calls == uploaded * 2
    stream.calls.clear()
    results = [copier.download(2 * upload.tensor()) for upload in (first, second)]
    assert stream.calls == ["compute after copied", "mark computed"] * 2  # nothing has waited yet
    stream.calls.clear()
    assert [result.array().tolist() for result in results] == [[0, 0], [2, 2]]
    assert stream.calls == ["wait for computed"] * 2
