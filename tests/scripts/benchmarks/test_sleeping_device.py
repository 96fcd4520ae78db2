from collections.abc import Iterator

import numpy as np
import pytest

from scripts.benchmarks.sleeping_device import FedDevice, SleepingEngine, feed_device


class Clock:
    """Clock that passes by sleeping alone."""

    def __init__(self) -> None:
        self.now = 0.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("time.perf_counter", lambda: clock.now)
    monkeypatch.setattr("time.sleep", clock.sleep)
    return clock


def batches(clock: Clock, images: int, seconds: float) -> Iterator[int]:
    while True:
        clock.sleep(seconds)
        yield images


@pytest.mark.parametrize(
    ("seconds", "rate", "waited"),
    [(0.0, 64.0, 0.0), (0.5, 32.0, 0.5), (1.5, 16.0, 0.75)],
)
def test_a_device_of_64_images_a_second_waits_for_slow_batches(
    seconds: float, rate: float, waited: float, clock: Clock
) -> None:
    fed = feed_device(batches(clock, 32, seconds), rate=64.0, seconds=8.0, warm_up=64)
    assert fed == FedDevice(rate, waited)


def test_the_warm_up_does_not_count(clock: Clock) -> None:
    def slow_at_first() -> Iterator[int]:
        clock.sleep(100)
        yield from batches(clock, 32, 0)

    assert feed_device(slow_at_first(), rate=64.0, seconds=4.0, warm_up=32) == FedDevice(64.0, 0.0)


def test_an_engine_needs_its_time_for_each_image(clock: Clock) -> None:
    engine = SleepingEngine(rate=10.0)
    scores = engine(np.zeros((5, 8, 8, 3), np.uint8))
    assert clock.now == 0.5
    assert (scores.probabilities.shape, scores.embeddings.shape) == ((5, 3), (5, 1))
