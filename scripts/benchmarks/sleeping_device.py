"""Stand-in for a device of a known rate: it sleeps as long as a GPU would compute, without the interpreter's lock."""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from overlay.engines.base import BatchScores, Engine, Forward, ImageBatch, Pixels, Scores, replace_pixels


class SleepingDevice:
    """Stand-in for a device that computes so many images a second, one batch after the other."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self._lock = threading.Lock()

    def compute(self, images: int) -> None:
        """Sleep for as long as the device would compute."""
        with self._lock:
            time.sleep(images / self.rate)


class _NoForward(Forward):
    precision, embedding_size = "none", 1


class SleepingEngine(Engine):
    """Engine on a stand-in device; all classes are equally probable."""

    def __init__(self, rate: float) -> None:
        super().__init__(_NoForward(), classes=3, chunk=32, flips=False)
        self._device = SleepingDevice(rate)

    def __call__(self, images: Pixels) -> Scores:
        """Sleep for as long as the device would compute."""
        self._device.compute(len(images))
        return Scores(np.full((len(images), 3), 1 / 3, np.float32), np.zeros((len(images), 1), np.float32))


class SleepingActor:
    """Model actor with a stand-in device, in place of `ModelActor`."""

    rate = 0.0

    def __init__(self, *_: object) -> None:
        self._engine = SleepingEngine(self.rate)

    def __call__(self, rows: ImageBatch) -> BatchScores:
        """Replace the pixels of a batch by scores."""
        return replace_pixels(self._engine, rows)


@dataclass(frozen=True)
class FedDevice:
    """What a device was given."""

    rate: float
    """images/s after the warm-up"""
    waited: float
    """share of that time in which the device had no batch"""


def feed_device(batches: Iterator[int], rate: float, seconds: float, warm_up: int) -> FedDevice:
    """Feed a stand-in device with batches of given sizes, for some seconds after the first ``warm_up`` images."""
    device, done, waited, began = SleepingDevice(rate), 0, 0.0, 0.0
    while not began or time.perf_counter() - began < seconds:
        asked = time.perf_counter()
        images = next(batches)
        if began:
            waited += time.perf_counter() - asked
        device.compute(images)
        done += images
        if not began and done >= warm_up:
            began, done, waited = time.perf_counter(), 0, 0.0
    whole = time.perf_counter() - began
    return FedDevice(done / whole, waited / whole)
