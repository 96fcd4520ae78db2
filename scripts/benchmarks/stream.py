"""Benchmark of a training's stream from shards: seconds and memory of one epoch over many tiny images.

    python scripts/benchmarks/stream.py --images 20000
    python scripts/benchmarks/stream.py --images 1000000

A few distinct images of 32 x 32 pixels are prepared, and their shards linked under new names until there are so many.
The epoch is that of a dataset that doesn't fit into memory: shards are opened, windows read, decoded and augmented by
tasks on all cores; then the validation images are streamed. Memory is the peak resident size of the process that takes
the batches.
"""

import argparse
import os
import resource
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import ray
from PIL import Image

from cluster import session
from overlay.config import Augment, Input, Prepare
from overlay.dataset.prepared import PreparedDataset, part_path
from overlay.training.sampler import SINGLE_WORKER, WindowedSamplePlan
from pipelines import prepare
from pipelines.training.batch_stream import StreamResources, start_stream_process, stream_batches
from pipelines.training.image_source import TrainingData
from pipelines.training.shard_source import open_shards
from pipelines.training.validation import VALIDATION_BATCH, plan_validation, validation_batches
from pipelines.training.worker import AHEAD_SHARE
from scripts.benchmarks.record import append_record, current_record

_DISTINCT = 1024  # four shards
_BATCH = 64
_WINDOW = 2048
_PIXELS = Input(size=32)


def main() -> None:
    """Stream one epoch and a validation, and print time and memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20_000, help="of the dataset, of which 70 %% are for training")
    images = parser.parse_args().images
    with tempfile.TemporaryDirectory(prefix="overlay-stream-") as folder:
        dataset = _write_dataset(Path(folder), images)
        session.connect()
        cluster = session.resources()
        resources = StreamResources(start_stream_process(), cluster.cpus, AHEAD_SHARE * cluster.store_bytes)
        numbers = {"images": float(256 * dataset.card.parts)}

        began = time.monotonic()
        source = open_shards(dataset, "train", _PIXELS)
        numbers["opening, s"] = time.monotonic() - began
        sizes = tuple(map(len, source.rows))
        plan = WindowedSamplePlan(sum(sizes), _BATCH, epochs=1, seed=0, shards=sizes, window=_WINDOW // _BATCH)
        stored = ray.put(TrainingData(source, plan))
        began = time.monotonic()
        streamed = stream_batches(stored, Augment(), SINGLE_WORKER, start=0, resources=resources)
        numbers["training images"] = float(sum(len(batch.labels) for batch in streamed))
        numbers["epoch, s"] = time.monotonic() - began

        stored = ray.put(plan_validation(open_shards(dataset, "val", _PIXELS), VALIDATION_BATCH))
        began = time.monotonic()
        validated = validation_batches(stored, SINGLE_WORKER, resources)
        numbers["validation images"] = float(sum(len(batch.labels) for batch in validated))
        numbers["validation, s"] = time.monotonic() - began
    numbers["peak MiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    for name, number in numbers.items():
        print(f"{name}: {number:,.1f}")
    append_record("stream", current_record(numbers))


def _write_dataset(folder: Path, images: int) -> PreparedDataset:
    """Prepare the distinct images, and link their shards until there are so many images."""
    random = np.random.default_rng(0)
    for number in range(_DISTINCT):
        file = folder / "images" / ("benign", "malignant")[number % 2] / f"{number:05d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (32, 32, 3), np.uint8)).save(file)
    dataset = prepare.run(Prepare(sources=[str(folder / "images")], out=str(folder / "dataset"), shard_rows=256))
    distinct, parts = dataset.card.parts, -(-images // 256)
    for part in range(distinct, parts):
        os.link(part_path(Path(dataset.path), part % distinct), part_path(Path(dataset.path), part))
    return replace(dataset, card=replace(dataset.card, parts=max(distinct, parts)))


if __name__ == "__main__":
    main()
