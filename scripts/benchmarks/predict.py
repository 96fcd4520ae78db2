"""Benchmark of `overlay predict`: throughput beside the bare forward pass, plain loops and other packages.

    uv run python scripts/benchmarks/predict.py

In one run, on one machine, on the same phantoms as PNG and the same ResNet at 224 pixels with random weights: (a) the
bare forward pass of each engine, (b) decoding alone, on one core and on all, (c) `overlay predict` on Ray, as a process
of its own, and (d) baselines: a loop over torch's DataLoader, in fp32 and in bf16, and Ray's documented pipeline.

Throughput is counted from the first batch of results to the last; the remaining time is start-up. Each (c) stands
between two (a), of which the mean counts. On CPUs (a) and (b) share the cores, so the limit is 1 / (1/a + 1/b); with a
GPU it is the slower of a and b.

A second table is of a small job, ``--few`` of these images, each row a process from start to end: `overlay predict`,
which starts no Ray for so few images, and in turn timm and Daft (`baselines.py`) where they are installed:
``uv run --with timm --with daft python scripts/benchmarks/predict.py``.
"""

import argparse
import contextlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import OrderedDict
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import joblib
import numpy as np
import pyarrow.parquet as pq
import torch

from overlay import __version__ as overlay_version
from overlay.engines.factory import open_engine, prepare_engine
from overlay.images import phantoms
from overlay.images.codec import decode_image
from overlay.images.resize import decode_target, resize_image
from overlay.models import model_file
from overlay.models.network import IMAGENET_MEAN, IMAGENET_STD, create_network
from scripts.benchmarks.plain_loops import (
    INPUT_SIZE,
    TimedJob,
    data_loader_loop,
    ray_documented_pipeline,
    time_batches,
)
from scripts.benchmarks.record import append_record, current_record

_CLASSES = ("benign", "malignant", "normal")
_DRAWN = 1200
"""phantoms that are drawn; more images are links to these"""
_DEVICE: Literal["cuda", "cpu"] = "cuda" if torch.cuda.is_available() else "cpu"


def _make_images(folder: Path, count: int) -> Path:
    """Draw at most `_DRAWN` phantoms into one folder, and link the other images to them."""
    phantoms.write_phantoms(folder / "drawn", images_per_class=-(-min(count, _DRAWN) // 3), seed=0)
    drawn = sorted(path for path in (folder / "drawn").rglob("*.png") if "_mask" not in path.stem)
    (folder / "images").mkdir()
    for number in range(count):
        path = drawn[number % len(drawn)]
        (folder / "images" / f"{number // len(drawn)}-{path.parent.name}-{path.name}").hardlink_to(path)
    return folder / "images"


def _make_model(folder: Path, arch: str) -> Path:
    """Write a network with random weights; one pass in training mode gives realistic batch norm statistics."""
    torch.manual_seed(0)
    network = create_network(arch, len(_CLASSES))
    with torch.no_grad():
        network(torch.randn(4, 3, INPUT_SIZE, INPUT_SIZE))
    card = model_file.ModelCard(
        arch, _CLASSES, INPUT_SIZE, "squash", IMAGENET_MEAN, IMAGENET_STD, None, "phantoms", "none", overlay_version
    )
    model_file.save_model_file(folder / "model.pth", OrderedDict(network.state_dict()), card)
    return folder / "model.pth"


def _bare_forward(file: Path, kind: Any, precision: Any, batch: int) -> tuple[float, str]:  # noqa: ANN401
    """Return images/s of an engine on images in memory, and its precision."""
    pixels = np.random.default_rng(0).integers(0, 256, (batch, INPUT_SIZE, INPUT_SIZE, 3), np.uint8)
    engine = open_engine(
        prepare_engine(model_file.load_model_file(file), kind, _DEVICE, precision, pixels), batch_size=batch
    )
    for _ in range(3):
        engine(pixels)
    began, done = time.perf_counter(), 0
    while done < 4 * batch or time.perf_counter() - began < 10:
        engine(pixels)
        done += batch
    return done / (time.perf_counter() - began), engine.precision


def _decode(paths: Sequence[Path]) -> float:
    """Read, decode and resize images; return the CPU time in seconds."""
    began = time.process_time()
    for path in paths:
        resize_image(decode_image(path.read_bytes(), target=decode_target(INPUT_SIZE, "squash")), INPUT_SIZE, "squash")
    return time.process_time() - began


def _decode_alone(images: Path) -> tuple[float, float]:
    """Return images/s of one core, by its CPU time, and of a process on each core, which share what cores share."""
    cores = joblib.cpu_count()
    paths = sorted(images.iterdir())[:_DRAWN]
    decode = joblib.delayed(_decode)
    with joblib.Parallel(n_jobs=cores) as pool:
        pool(decode(paths[:1]) for _ in range(4 * cores))  # the processes start, and import
        began = time.perf_counter()
        pool(decode(paths) for _ in range(cores))
        seconds = time.perf_counter() - began
    return len(paths) / _decode(paths), cores * len(paths) / seconds


def _predict(words: list[str], out: Path) -> TimedJob:
    """Run `overlay predict` into ``out``, on Ray, as a process of its own."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "overlay", *words], check=True, stdout=sys.stderr)
    seconds = time.perf_counter() - began
    rows = pq.read_table(out / "metrics.parquet").to_pylist()
    return TimedJob(next(row["value"] for row in rows if row["name"] == "images_per_second_once_started"), seconds)


def _small_job(images: Path, file: Path, options: argparse.Namespace) -> list[tuple[str, list[float]]]:
    """Time whole processes on a few images, in turn; return the name and the seconds of each."""
    few = images.parent / "few" / "images"
    few.mkdir(parents=True)
    for path in sorted(images.iterdir())[: options.few]:
        (few / path.name).hardlink_to(path)
    others = str(Path(__file__).with_name("baselines.py"))
    jobs = {"**overlay predict**": ["-m", "overlay", "predict", str(file), str(few), "--out", str(few.parent / "out")]}
    jobs |= {
        f"{package} {version(package)}{how}": [others, package, str(few), str(file), str(options.batch)]
        for package, how in (("timm", ", as its inference.py, bf16, channels_last"), ("daft", ", fp32"))
        if find_spec(package)
    }
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(options.rounds):
        for name, words in jobs.items():
            for made in ("out", "daft"):
                shutil.rmtree(few.parent / made, ignore_errors=True)
            began = time.perf_counter()
            subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            seconds[name].append(time.perf_counter() - began)
    return list(seconds.items())


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="resnet101")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--images", type=int, default=480)
    parser.add_argument("--few", type=int, default=200, help="images of the small job")
    parser.add_argument("--rounds", type=int, default=3, help="of the small job")
    parser.add_argument("--engines", default="torch:auto,openvino:auto,openvino:int8", help="kind:precision, ...")
    parser.add_argument("--without", default="", help="rows to leave out: fp32, bf16, ray, small")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        images, file = _make_images(work, options.images), _make_model(work, options.arch)
        rows = _measure_engines(images, file, options)
        for label, bf16 in (("fp32", False), ("bf16", True)):
            if label not in options.without:
                loop = time_batches(data_loader_loop(images, file, options.batch, _DEVICE, bf16))
                rows.append((f"DataLoader loop, {label}", *_cells(loop, "", options.images)))
        small = _small_job(images, file, options) if "small" not in options.without else []
        if "ray" not in options.without:
            from cluster import session

            session.connect()
            ray = time_batches(ray_documented_pipeline(images, file, options.batch, _DEVICE))
            rows.append(("Ray's documented pipeline, fp32", *_cells(ray, "", options.images)))
    _print_tables(rows, small, options)


def _measure_engines(images: Path, file: Path, options: argparse.Namespace) -> list[tuple[str, ...]]:
    """Return the rows of decoding alone, and of the forward pass and `overlay predict` by each engine."""
    batch: int = options.batch
    of_one, decoded = _decode_alone(images)
    rows: list[tuple[str, ...]] = [
        ("decode and resize alone, one core", f"{of_one:.1f}", "", "", ""),
        (f"decode and resize alone, {joblib.cpu_count()} cores", f"{decoded:.1f}", "", "", ""),
    ]
    wanted = [each for each in options.engines.split(",") if "openvino" not in each or _DEVICE == "cpu"]
    for kind, precision in (each.split(":") for each in wanted if "openvino" not in each or find_spec("openvino")):
        out = images.parent / f"out-{kind}-{precision}"
        words = ["predict", str(file), str(images), "--out", str(out), f"--batch_size={batch}", "--actors=1"]
        with contextlib.redirect_stdout(sys.stderr):
            before, computed = _bare_forward(file, kind, precision, batch)
            whole = _predict([*words, f"--engine={kind}", f"--precision={precision}"], out)
            after, _ = _bare_forward(file, kind, precision, batch)
        forward = (before + after) / 2
        limit = 1 / (1 / forward + 1 / decoded) if _DEVICE == "cpu" else min(forward, decoded)
        alone = f"forward alone, {kind} in {computed}, before and after ({before:.1f}, {after:.1f})"
        rows.append((alone, f"{forward:.1f}", "", "", ""))
        share = f"{whole.rate / limit:.2f} of {limit:.1f}"
        rows.append((f"**overlay predict, {kind} in {computed}**", *_cells(whole, share, options.images)))
    return rows


def _print_tables(
    rows: list[tuple[str, ...]], small: list[tuple[str, list[float]]], options: argparse.Namespace
) -> None:
    where = torch.cuda.get_device_name() if _DEVICE == "cuda" else f"{joblib.cpu_count()} cores"
    packages = [package for package in ("torch", "openvino", "ray") if find_spec(package)]
    versions = ", ".join(f"{package} {version(package)}" for package in packages)
    print(
        f"\n{options.arch} at {INPUT_SIZE} px, batches of {options.batch}, {options.images} PNGs, {where}, {versions}\n"
    )
    print(
        "| what | images/s once started | of the limit | start-up, s | all of it, s |\n| --- | --- | --- | --- | --- |"
    )
    for row in rows:
        print(f"| {' | '.join(row)} |")
    if small:
        print(f"\n| {options.few} images, whole process | s, median | of all rounds |\n| --- | --- | --- |")
    for name, seconds in small:
        print(f"| {name} | {statistics.median(seconds):.1f} | {', '.join(f'{each:.1f}' for each in seconds)} |")
    numbers = {f"{row[0]}, images/s": float(row[1]) for row in rows}
    numbers |= {f"{name}, {options.few} images, s": statistics.median(seconds) for name, seconds in small}
    append_record("predict", current_record(numbers))


def _cells(job: TimedJob, share: str, images: int) -> tuple[str, ...]:
    return f"{job.rate:.1f}", share, f"{job.seconds - images / job.rate:.1f}", f"{job.seconds:.1f}"


if __name__ == "__main__":
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    main()
