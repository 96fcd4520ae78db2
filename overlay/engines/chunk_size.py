"""Chunk size of a GPU: the number of images in one forward pass, chosen by its speed (``--batch_size auto``)."""

import time

import numpy as np

from overlay.engines.base import DeviceMemoryError, Forward

CHUNK_SIZES = (64, 128, 256, 512)
"""sizes that are tried, in ascending order"""
_TIMED = 4
_NEAR = 0.97  # of the best rate; larger chunks need more memory, and a longer wait for the first result


def fastest_chunk(forward: Forward, size: int) -> int:
    """Return the smallest of `CHUNK_SIZES` that is about as fast as the fastest that fits into the device's memory.

    ``size``: side of an image in pixels. Where none fits, it is the smallest, which the engine then halves.
    """
    rates: dict[int, float] = {}
    for images in CHUNK_SIZES:
        chunk = np.zeros((images, size, size, 3), np.uint8)
        try:
            forward.run([chunk])  # the first pass chooses kernels and reserves memory
            began = time.perf_counter()
            forward.run([chunk] * _TIMED)
        except DeviceMemoryError:
            break
        rates[images] = _TIMED * images / (time.perf_counter() - began)
    fastest = max(rates.values(), default=0.0)
    return next((images for images, rate in rates.items() if rate >= _NEAR * fastest), CHUNK_SIZES[0])
