"""Benchmark of feeding a device: what the data path gives a stand-in device of a known rate, on any machine.

    uv run --with spdl python scripts/benchmarks/feed.py
    uv run --with spdl python scripts/benchmarks/feed.py --folder busi --rates 400 --seconds 30

The stand-in is an engine, or a training step, that sleeps for n / rate seconds without the interpreter's lock. It is
fed by `overlay predict` in this process and on Ray, from PNG and JPEG, and by the training stream, from memory and from
shards, at several rates. Throughput counts after a warm-up. Beside it stand torch's DataLoader, and SPDL where it is
installed, with a process or a thread for each core, on the same images and with the same functions for each of them.

The limit is the number of cores divided by the sum of the CPU times of an image's work (decode, resize, augment), each
measured alone on one core in the same run; "of" is the share of the smaller of the device's rate and 0.9 of the limit.
"""

import argparse
import itertools
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from unittest import mock

import joblib
import numpy as np
import pyarrow.parquet as pq
import ray
import torch
from numpy.typing import NDArray
from PIL import Image

from cluster import session
from cluster.nodes import NodeSize
from overlay.config import Augment, InferenceOptions, Input, Predict, Prepare
from overlay.dataset.prepared import PreparedDataset
from overlay.images import phantoms
from overlay.images.augment import augment, augmentation_generator
from overlay.images.codec import decode_image
from overlay.images.resize import decode_target, resize_image
from overlay.models import model_file
from overlay.training.sampler import SINGLE_WORKER, SamplePlan, WindowedSamplePlan
from pipelines import predict, prepare
from pipelines.inference.actor_pool import ActorPool
from pipelines.training.batch_stream import TASK_IMAGES, StreamResources, start_stream_process, stream_batches
from pipelines.training.device_batches import upload_batches
from pipelines.training.image_source import TrainingData, decode_split
from pipelines.training.shard_source import open_shards
from pipelines.training.worker import AHEAD_SHARE
from scripts.benchmarks.feed_loaders import FEED_BATCH, LoadImage, data_loader_batches, spdl_batches
from scripts.benchmarks.record import append_record, current_record
from scripts.benchmarks.sleeping_device import FedDevice, SleepingActor, SleepingEngine, feed_device
from scripts.fault_injection.predict import write_random_model

FED_SIZE = 224
"""side of an image in pixels"""
_DISTINCT = 240
_SHARD_IMAGES = 4096
"""images of an epoch that is read from shards; windows are of a task's 256, so that some runs measure several"""
_GOAL = 0.95


@dataclass(frozen=True)
class FeedPath:
    """A data path: how it feeds a device, and the work of an image."""

    name: str
    feed: Callable[[float], FedDevice]
    """rate of the device, images/s -> what it was given"""
    load: LoadImage
    """an image of a baseline"""
    limit: float
    """images/s of all cores"""


def feed_by_predict(images: list[Path], work: Path, seconds: float, on_ray: bool, rate: float) -> FedDevice:
    """Feed a stand-in device by `overlay predict`, with as many images as it computes in so many seconds."""
    with tempfile.TemporaryDirectory(dir=work) as name, ExitStack() as stack:
        folder = Path(name, "images")
        folder.mkdir()
        for number, image in zip(range(int(rate * seconds)), itertools.cycle(images)):
            (folder / f"{number:06d}{image.suffix}").hardlink_to(image)
        if on_ray:
            actor = type("SleepingModelActor", (SleepingActor,), {"rate": rate})
            stack.enter_context(mock.patch("pipelines.inference.model_actors.ModelActor", actor))
            stack.enter_context(mock.patch("pipelines.inference.ray_backend.plan_pool", _pool_of_gpus))
        else:
            opened = mock.patch("pipelines.inference.local_backend.open_engine", return_value=SleepingEngine(rate))
            stack.enter_context(opened)
        stack.enter_context(mock.patch("pipelines.predict.is_small_job", return_value=not on_ray))
        out = Path(name, "out")
        predict.run(Predict(str(work / "model.pth"), [str(folder)], str(out), device="cpu", engine="torch"))
        rows = {row["name"]: row["value"] for row in pq.read_table(out / "metrics.parquet").to_pylist()}
    return FedDevice(rows["images_per_second_once_started"], rows["device_wait_share"])


def _pool_of_gpus(options: InferenceOptions, nodes: Sequence[NodeSize]) -> ActorPool:
    """Plan the pool of nodes with a GPU each, for which the device stands in."""
    return ActorPool.plan(replace(options, device="cuda"), [replace(node, gpus=1) for node in nodes])


def feed_by_stream(data: TrainingData, seconds: float, rate: float) -> FedDevice:
    """Feed a stand-in device by the training stream, with data tasks on all cores."""
    cluster = session.resources()
    epochs = 2 + int((2 * rate * seconds + 4 * TASK_IMAGES * cluster.cpus) / data.plan.samples)
    longer = TrainingData(data.source, replace(data.plan, epochs=epochs))
    resources = StreamResources(start_stream_process(), cluster.cpus, AHEAD_SHARE * cluster.store_bytes)
    batches = stream_batches(ray.put(longer), Augment(), SINGLE_WORKER, start=0, resources=resources)
    sizes = (len(batch.tensors()[1]) for batch in upload_batches(batches, torch.device("cpu")))
    return feed_device(sizes, rate, seconds, warm_up=int(2 * TASK_IMAGES * cluster.cpus))


def rate_of_core(function: Callable[[int], object], images: int = _DISTINCT) -> float:
    """Return the images/s of a function on one core, by its CPU time."""
    began = time.process_time()
    for number in range(images):
        function(number)
    return images / (time.process_time() - began)


def _load_file(files: list[bytes], number: int) -> NDArray[np.uint8]:
    """Return the model's input of a file."""
    data = files[number % len(files)]
    return resize_image(decode_image(data, target=decode_target(FED_SIZE, "squash")), FED_SIZE, "squash")


def _augment_image(images: list[NDArray[np.uint8]], number: int) -> NDArray[np.uint8]:
    random = augmentation_generator(0, number // len(images), number % len(images))
    return augment(images[number % len(images)], Augment(), random).copy()  # a flip is a view that torch can't take


def _augment_file(files: list[bytes], number: int) -> NDArray[np.uint8]:
    return _augment_image([_load_file(files, number)], number)


def _write_images(work: Path, folder: Path | None) -> tuple[list[Path], list[Path]]:
    """Return some PNGs, of a folder in BUSI's layout or phantoms, and the same as JPEG."""
    if folder is None:
        folder = work / "phantoms"
        phantoms.write_phantoms(folder, images_per_class=_DISTINCT // 3, seed=0)
    png = sorted(path for path in folder.glob("*/*.png") if "_mask" not in path.stem)[:_DISTINCT]
    (work / "jpeg").mkdir()
    jpeg = [work / "jpeg" / f"{number}.jpg" for number in range(len(png))]
    for source, target in zip(png, jpeg, strict=True):
        with Image.open(source) as image:
            image.convert("RGB").save(target, quality=92)
    return png, jpeg


def _training_data(dataset: PreparedDataset, kind: str) -> TrainingData:
    """Return the training images of a dataset, decoded in memory or in their shards."""
    size = Input(size=FED_SIZE)
    if kind == "memory":
        decoded = decode_split(dataset, "train", size)
        return TrainingData(decoded, SamplePlan(len(decoded), FEED_BATCH, epochs=1, seed=0))
    source = open_shards(dataset, "train", size)
    again = -(-_SHARD_IMAGES // len(source.labels))  # a dataset that is read from its shards is large
    source = replace(source, files=source.files * again, rows=source.rows * again, labels=np.tile(source.labels, again))
    sizes = tuple(map(len, source.rows))
    plan = WindowedSamplePlan(sum(sizes), FEED_BATCH, epochs=1, seed=0, shards=sizes, window=TASK_IMAGES // FEED_BATCH)
    return TrainingData(source, plan)


def make_paths(work: Path, folder: Path | None, seconds: float) -> list[FeedPath]:
    """Return all data paths, each with its limit."""
    cores = joblib.cpu_count()
    png, jpeg = _write_images(work, folder)
    write_random_model(work / "model.pth")
    loaded = model_file.load_model_file(work / "model.pth")
    model_file.save_model_file(work / "model.pth", loaded.state, replace(loaded.card, size=FED_SIZE))
    dataset = prepare.run(Prepare(sources=[str(folder or work / "phantoms")], out=str(work / "dataset")))
    paths = []
    for kind, images in (("PNG", png), ("JPEG", jpeg)):
        load = partial(_load_file, [image.read_bytes() for image in images])
        for where, on_ray in (("this process", False), ("Ray", True)):
            feed = partial(feed_by_predict, images, work, seconds, on_ray)
            paths.append(FeedPath(f"predict, {kind}, {where}", feed, load, cores * rate_of_core(load)))
    stored = [image["bytes"] for image in pq.read_table(work / "dataset" / "data")["image"].to_pylist()[:_DISTINCT]]
    pixels = [_load_file(stored, number) for number in range(len(stored))]
    for kind, load in (("memory", partial(_augment_image, pixels)), ("shards", partial(_augment_file, stored))):
        feed = partial(feed_by_stream, _training_data(dataset, kind), seconds)
        paths.append(FeedPath(f"train, {kind}", feed, load, cores * rate_of_core(load)))
    return paths


def _measure(path: FeedPath, rate: float, seconds: float) -> dict[str, float]:
    """Feed a stand-in device by one path and by the baselines; return the numbers of its row."""
    cores, images = joblib.cpu_count(), int(2 * rate * seconds) + 100 * FEED_BATCH
    fed = path.feed(rate)
    numbers = {"limit": path.limit, "images/s": fed.rate, "of": fed.rate / min(rate, 0.9 * path.limit)}
    numbers |= {"waited": fed.waited}
    loaders = {"DataLoader": data_loader_batches} | ({"SPDL": spdl_batches} if find_spec("spdl") else {})
    for name, loader in loaders.items():
        numbers[name] = feed_device(loader(path.load, images, cores), rate, seconds, 16 * FEED_BATCH).rate
    return numbers


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="images in BUSI's layout; phantoms where none is given")
    parser.add_argument("--rates", type=float, nargs="+", default=[100, 200, 400, 800], help="images/s of the device")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each measurement")
    parser.add_argument("--only", default="", help="paths whose name contains this, such as 'train, memory'")
    options = parser.parse_args()
    numbers: dict[str, float] = {}
    rows = list[str]()
    with tempfile.TemporaryDirectory(prefix="overlay-feed-") as name:
        for path in make_paths(Path(name), options.folder, options.seconds):
            for rate in options.rates if options.only in path.name else []:
                measured = _measure(path, rate, options.seconds)
                numbers |= {f"{path.name}, device {rate:g}, {what}": value for what, value in measured.items()}
                rows.append(_row(path.name, rate, measured))
                print(rows[-1], flush=True)
    print(f"\n{FED_SIZE} px, {joblib.cpu_count()} cores, {options.seconds:g} s each\n")
    print(f"| path | device | limit | fed | of | {_GOAL} of it | waited | DataLoader | SPDL |")
    print("\n".join([f"|{' --- |' * 9}", *rows]))
    append_record("feed", current_record(numbers))


def _row(name: str, rate: float, measured: dict[str, float]) -> str:
    """Return a row of the table."""
    cells = [name, f"{rate:g}", f"{measured['limit']:.0f}", f"**{measured['images/s']:.0f}**", f"{measured['of']:.2f}"]
    cells += ["yes" if measured["of"] >= _GOAL else "no", f"{measured['waited']:.0%}"]
    cells += [f"{measured[each]:.0f}" if each in measured else "not installed" for each in ("DataLoader", "SPDL")]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
