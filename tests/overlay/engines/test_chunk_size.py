import pytest

from overlay.engines.base import DeviceMemoryError, Floats, Forward, Pixels
from overlay.engines.chunk_size import CHUNK_SIZES, fastest_chunk


class Clocked(Forward):
    """Needs a fixed time for a chunk and more for each of its images, on a clock of its own."""

    precision, embedding_size = "fp32", 1

    def __init__(self, *, fixed: float, each: float, memory: int) -> None:
        self._fixed, self._each, self._memory = fixed, each, memory
        self.now = 0.0
        self.tried: list[int] = []

    def run(self, chunks: list[Pixels]) -> list[tuple[Floats, Floats]]:
        if len(chunks[0]) > self._memory:
            raise DeviceMemoryError("full")
        self.tried += map(len, chunks)
        assert chunks[0].shape[1:] == (8, 8, 3)
        self.now += sum(self._fixed + self._each * len(chunk) for chunk in chunks)
        return []


@pytest.mark.parametrize(
    ("fixed", "memory", "chunk"),
    [
        (0.0, 1024, 64),  # all are as fast
        (2.0, 1024, 128),  # 0.95, 0.977, 0.99 and 1 of the best
        (64.0, 1024, 512),
        (64.0, 300, 256),
        (64.0, 64, 64),
        (64.0, 10, 64),
    ],
)
def test_the_smallest_chunk_that_is_about_as_fast_as_the_fastest(
    fixed: float, memory: int, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = Clocked(fixed=fixed, each=0.5, memory=memory)
    monkeypatch.setattr("time.perf_counter", lambda: forward.now)
    assert fastest_chunk(forward, size=8) == chunk
    assert set(forward.tried) == {size for size in CHUNK_SIZES if size <= memory}
