"""Benchmark of the thread that queues a GPU's work: how much of its speed it keeps while batches come beside it.

    uv run python scripts/benchmarks/queueing.py

A training step on a GPU is some thousand kernels, which a thread of Python queues one after the other. Torch gives the
interpreter's lock up at each of them, so whatever else runs Python in the worker's process makes the step longer. The
stand-in for a step is the forward pass of a ResNet101 on one image of 32 pixels, with one thread: as many calls of
torch, and next to nothing computed. It is timed alone, and with a batch of the training stream taken before each step
by the thread that copies ahead; in turns, after a warm-up. Images aren't augmented, so that two cores make the batches.
"""

import argparse
import statistics
import time
from collections.abc import Iterator

import numpy as np
import ray
import torch

from cluster import session
from overlay.config import Augment
from overlay.models.device_copy import DeviceCopier
from overlay.models.network import create_network
from overlay.training.sampler import SINGLE_WORKER, SamplePlan
from pipelines.training.batch_stream import StreamResources, start_stream_process, stream_batches
from pipelines.training.device_batches import GPU_BATCHES_AHEAD, DeviceBatch, iterate_ahead
from pipelines.training.image_source import DecodedImages, TrainingData
from scripts.benchmarks.record import append_record, current_record

_UNCHANGED = Augment(rotation=0, flip=0, zoom=0, brightness=0, contrast=0)


def _batches(options: argparse.Namespace) -> Iterator[DeviceBatch]:
    """Yield batches as a worker with a GPU gets them, without end."""
    cluster = session.resources()
    images = 8 * options.batch
    pixels = np.random.default_rng(0).integers(0, 256, (images, options.size, options.size, 3), np.uint8)
    positions = np.stack([np.zeros(images, np.int64), np.arange(images)], axis=1)
    source = DecodedImages(np.zeros(images, np.int64), options.size, [ray.put(pixels)], positions)
    data = ray.put(TrainingData(source, SamplePlan(images, options.batch, epochs=100_000, seed=0)))
    resources = StreamResources(start_stream_process(), cluster.cpus, 2.0**29)
    stream = stream_batches(data, _UNCHANGED, SINGLE_WORKER, start=0, resources=resources)
    copier = DeviceCopier(torch.device("cpu"))
    return iterate_ahead((DeviceBatch.upload(batch, copier) for batch in stream), GPU_BATCHES_AHEAD)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=224, help="side of an image in pixels")
    parser.add_argument("--batch", type=int, default=125)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=30, help="of each round")
    options = parser.parse_args()
    session.connect()
    torch.set_num_threads(1)
    network, image = create_network("resnet101", 3).eval(), torch.zeros(1, 3, 32, 32)
    batches = _batches(options)
    alone, fed, waited = list[float](), list[float](), list[float]()
    for number in range(options.rounds + 1):
        for with_batches, seconds in ((False, alone), (True, fed)):
            for _ in range(options.steps):
                asked = time.perf_counter()
                if with_batches:
                    next(batches).tensors()
                began = time.perf_counter()
                with torch.no_grad():
                    network(image)
                if number:  # the first round is the warm-up
                    seconds.append(time.perf_counter() - began)
                    waited += [began - asked] if with_batches else []
    numbers = {
        "step alone, ms": statistics.median(alone) * 1000,
        "step with batches, median, ms": statistics.median(fed) * 1000,
        "step with batches, mean, ms": statistics.fmean(fed) * 1000,
        "mean of all steps with batches, of the same alone": statistics.fmean(fed) / statistics.fmean(alone),
        "wait for a batch, median, ms": statistics.median(waited) * 1000,
    }
    for name, value in numbers.items():
        print(f"{name}: {value:.2f}")
    append_record("queueing", current_record(numbers))


if __name__ == "__main__":
    main()
