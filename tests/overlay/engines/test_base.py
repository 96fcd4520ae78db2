from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest

from overlay.engines.base import DeviceMemoryError, Engine, EnginePlan, Floats, Forward, OpenVinoModel, Pixels
from overlay.errors import WorkError

IMAGES: Pixels = np.arange(10, dtype=np.uint8).reshape(10, 1, 1, 1).repeat(3, axis=3)


class Reds(Forward):
    """Gives an image's red as its only probability; its memory is enough for so many images."""

    precision, embedding_size = "fp32", 1

    def __init__(self, memory: int) -> None:
        self._memory = memory
        self.sizes: list[int] = []

    def run(self, chunks: list[Pixels]) -> list[tuple[Floats, Floats]]:
        self.sizes += map(len, chunks)
        if max(map(len, chunks)) > self._memory:
            raise DeviceMemoryError("full")
        reds = [chunk[:, 0, 0, :1].astype(np.float32) for chunk in chunks]
        return [(red, red) for red in reds]


def test_a_chunk_that_is_too_large_is_halved_and_that_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    forward = Reds(memory=3)
    engine = Engine(forward, classes=1, chunk=8, flips=False)
    assert engine(IMAGES).probabilities[:, 0].tolist() == list(range(10))
    assert engine.chunk == 2
    assert forward.sizes == [8, 8, 4, 4, 4, *[2] * 5]
    assert capsys.readouterr().out.splitlines() == [
        "the GPU's memory is too small for 8 images in one forward pass; now 4",
        "the GPU's memory is too small for 4 images in one forward pass; now 2",
    ]
    engine(IMAGES)  # it stays as it is
    assert capsys.readouterr().out == ""


def test_one_image_that_is_too_large_is_an_error() -> None:
    with pytest.raises(WorkError, match="the GPU's memory is too small for one image; use --device cpu"):
        Engine(Reds(memory=0), classes=1, chunk=4, flips=False)(IMAGES)


def test_a_chunk_is_halved_once_by_all_threads(capsys: pytest.CaptureFixture[str]) -> None:
    together = Barrier(2)

    class Waits(Reds):
        def run(self, chunks: list[Pixels]) -> list[tuple[Floats, Floats]]:
            if len(chunks[0]) == 8:
                together.wait()
            return super().run(chunks)

    engine = Engine(Waits(memory=4), classes=1, chunk=8, flips=False)
    with ThreadPoolExecutor(2) as threads:
        for scores in threads.map(engine, [IMAGES, IMAGES]):
            assert scores.probabilities[:, 0].tolist() == list(range(10))
    assert engine.chunk == 4
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_time_that_two_batches_share_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(Reds(memory=4), classes=1, chunk=4, flips=False)
    clock = iter([5.0, 7.0, 11.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    assert engine.busy_seconds(began=3.0) == 2  # from 3 to 5
    assert engine.busy_seconds(began=4.0) == 2  # from 4 to 7, of which 5 to 7 is new
    assert engine.busy_seconds(began=10.0) == 1


def test_a_gpu_has_two_batches_in_flight() -> None:
    model = OpenVinoModel(b"", b"")
    assert EnginePlan("openvino", "cpu", "auto", model, 3).in_flight == 1
    assert EnginePlan("torch", "cuda", "auto", model, 3).in_flight == 2
