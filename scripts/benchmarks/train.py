"""Benchmark of `overlay train`: end-to-end throughput beside the bare training step and plain loops.

    uv run python scripts/benchmarks/train.py --size 128
    uv run python scripts/benchmarks/train.py --size 224 --epochs 8

In one run, on one machine, on phantoms: (a) the bare step on images in device memory, (b) decoding and augmentation
alone, on one core, (c) `overlay train` as a process of its own after its first epoch, with start-up apart, and (d) a
plain loop over torch's DataLoader with the same network, in fp32 and in the same precision. On CPUs (a) and (b) share
the cores, so the limit is 1 / (1/a + 1/(b * cores)); with a GPU it is the slower of a and b * cores. The speed of a
machine varies: (a), (c) and (d) are measured in turn, several times, and each (c) is compared with the (a) before and
after it.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, median

import joblib
import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset

from overlay.config import Augment, Optimizer
from overlay.config.train import TrainingPrecision
from overlay.images import phantoms
from overlay.images.augment import augment, augmentation_generator
from overlay.images.codec import decode_image
from overlay.images.resize import decode_target, resize_image
from overlay.models.device import autocast, use_all_cores
from overlay.models.network import IMAGENET_MEAN, IMAGENET_STD, create_network, normalise
from overlay.training.optimizer import build_optimizer
from scripts.benchmarks.record import append_record, current_record

_CLASSES = ("benign", "malignant", "normal")
_DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _step(network: nn.Module, optimizer: torch.optim.Optimizer, pixels: Tensor, labels: Tensor, kind: str) -> None:
    """Run forward pass, backward pass and optimizer step."""
    precision: TrainingPrecision = "fp32" if kind == "fp32" else "auto"
    mean, std = torch.tensor(IMAGENET_MEAN, device=_DEVICE), torch.tensor(IMAGENET_STD, device=_DEVICE)
    with autocast(_DEVICE, precision):
        logits = network(normalise(pixels, mean, std))
    cross_entropy(logits.float(), labels).backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def _create_network(arch: str, *, channels_last: bool, compiled: bool) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Build a network and its optimizer on the device."""
    use_all_cores()
    network = create_network(arch, len(_CLASSES)).to(_DEVICE)
    if channels_last:
        network = network.to(memory_format=torch.channels_last)
    optimizer = build_optimizer(network, Optimizer())
    if compiled:
        network.compile()
    return network, optimizer


def _synchronise() -> None:
    """Wait for the device."""
    if _DEVICE.type == "cuda":
        torch.cuda.synchronize()


def _bare_step(images: NDArray[np.uint8], options: argparse.Namespace) -> float:
    """Return images/s of forward pass, backward pass and optimizer step, after two warm-up steps."""
    batch: int = options.batch
    steps: int = options.steps
    network, optimizer = _create_network(options.arch, channels_last=True, compiled=options.compile)
    pixels = torch.from_numpy(np.resize(images, (batch, *images.shape[1:]))).to(_DEVICE)
    labels = torch.zeros(batch, dtype=torch.int64, device=_DEVICE)
    began = 0.0
    for number in range(steps + 2):
        if number == 2:
            _synchronise()
            began = time.perf_counter()
        _step(network, optimizer, pixels, labels, "auto")
    _synchronise()
    return steps * batch / (time.perf_counter() - began)


def _decode_alone(files: list[Path], size: int) -> float:
    """Return images/s of one core that decodes and resizes, which is done once a run where the images fit in memory."""
    began = time.process_time()
    for file in files[:64]:
        resize_image(decode_image(file.read_bytes(), target=decode_target(size, "squash")), size, "squash")
    return min(len(files), 64) / (time.process_time() - began)


def _augment_alone(images: NDArray[np.uint8], count: int = 512) -> float:
    """Return images/s of one core that augments."""
    began = time.process_time()
    for number in range(count):
        augment(
            images[number % len(images)],
            Augment(),
            augmentation_generator(0, number // len(images), number % len(images)),
        )
    return count / (time.process_time() - began)


class _Files(Dataset[tuple[Tensor, int]]):
    """Dataset of a plain loop: files, decoded and augmented in each epoch."""

    def __init__(self, files: list[Path], size: int) -> None:
        self._files, self._size = files, size

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        data = self._files[index].read_bytes()
        image = resize_image(decode_image(data, target=decode_target(self._size, "squash")), self._size, "squash")
        random = np.random.default_rng()
        return torch.from_numpy(augment(image, Augment(), random).copy()), _CLASSES.index(
            self._files[index].parent.name
        )


def _plain_loop(files: _Files, options: argparse.Namespace, kind: str) -> float:
    """Return images/s of a loop over a DataLoader; "fp32" is as most scripts are, without channels_last or compiler."""
    batch: int = options.batch
    steps: int = options.steps
    fast = kind != "fp32"
    network, optimizer = _create_network(options.arch, channels_last=fast, compiled=fast and options.compile)
    loader = DataLoader(files, batch, shuffle=True, num_workers=joblib.cpu_count(), drop_last=True)
    done, began = 0, 0.0
    while done < steps + 2:
        for pixels, labels in loader:
            if done == 2:
                _synchronise()
                began = time.perf_counter()
            _step(network, optimizer, pixels.to(_DEVICE), labels.to(_DEVICE), kind)
            done += 1
            if done == steps + 2:
                break
    _synchronise()
    return steps * batch / (time.perf_counter() - began)


def _overlay(*words: str) -> float:
    """Run an overlay command; return its seconds."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "overlay", *words], check=True, stdout=sys.stderr)
    return time.perf_counter() - began


def _end_to_end(folder: str, out: str, options: argparse.Namespace) -> tuple[float, float, int]:
    """Return images/s after the first epoch, the seconds outside of epochs, and the number of counted steps."""
    whole = _overlay(
        *("train", f"{folder}/dataset", f"--out={folder}/{out}", f"--input.size={options.size}"),
        *(f"--model.arch={options.arch}", "--model.weights=none", f"--early_stopping.patience={options.epochs}"),
        *(f"--train.compile={options.compile}", f"--train.epochs={options.epochs}"),
        *(f"--train.batch_size={options.batch}", "--tracking.mode=disabled"),
    )
    history = pq.read_table(f"{folder}/{out}/history.parquet").to_pydict()
    start_up = whole - sum(history["seconds"])
    counts = sum(pq.read_table(f"{folder}/dataset/data", columns=["split"])["split"].to_numpy() == "train")
    rates = history["images_per_second"][1:]
    return len(rates) / sum(1 / rate for rate in rates), start_up, len(rates) * -(-counts // options.batch)


@dataclass
class _Measurements:
    """Throughput of each measurement in images/s, one value a round; ``bare`` has one more, before the first round."""

    augmented: float
    decoded: float
    bare: list[float]
    limits: list[float] = field(default_factory=list)
    trained: list[float] = field(default_factory=list)
    plain: dict[str, list[float]] = field(default_factory=lambda: {"fp32": [], "auto": []})
    start_ups: list[float] = field(default_factory=list)
    """seconds"""
    steps: int = 0


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="resnet101")
    parser.add_argument("--size", type=int, nargs="+", default=[128], help="measured one after the other")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--compile", action="store_true", help="torch.compile in all but the fp32 loop")
    parser.add_argument("--images", type=int, default=240, help="training images, about")
    parser.add_argument(
        "--epochs", type=int, default=10, help="of each round; the first isn't counted, and the second pays for memory"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6, help="of the bare step and of the plain loops")
    options = parser.parse_args()
    sizes: list[int] = options.size
    with tempfile.TemporaryDirectory() as folder:
        _draw_phantoms(Path(folder, "phantoms"), each=round(options.images / 0.7 / len(_CLASSES)))
        _overlay("prepare", f"{folder}/phantoms", f"--out={folder}/dataset")
        for size in sizes:
            one = argparse.Namespace(**(vars(options) | {"size": size}))
            _print_table(_measure(folder, one), one)


def _draw_phantoms(folder: Path, each: int) -> None:
    """Write so many phantoms of each class, on all cores."""
    write = joblib.delayed(phantoms.write_phantom)
    for name in phantoms.PHANTOM_CLASSES:
        (folder / name).mkdir(parents=True)
        joblib.Parallel(n_jobs=-1)(write(folder / name, name, seed=0, index=index) for index in range(1, each + 1))


def _measure(folder: str, options: argparse.Namespace) -> _Measurements:
    """Measure everything at one size in turn, and print a line for each round."""
    files = sorted(file for file in Path(folder, "phantoms").glob("*/*.png") if "_mask" not in file.name)
    images = np.stack(
        [resize_image(decode_image(file.read_bytes()), options.size, "squash") for file in files[: options.batch]]
    )
    measured = _Measurements(
        augmented=_augment_alone(images),
        decoded=_decode_alone(files, options.size),
        bare=[_bare_step(images, options)],
    )
    on_all_cores = measured.augmented * joblib.cpu_count()
    for number in range(options.rounds):
        rate, start_up, counted = _end_to_end(folder, f"run-{options.size}-{number}", options)
        measured.bare.append(_bare_step(images, options))
        for kind, rates in measured.plain.items():
            rates.append(_plain_loop(_Files(files, options.size), options, kind))
        near = fmean(measured.bare[-2:])
        limit = min(near, on_all_cores) if _DEVICE.type == "cuda" else 1 / (1 / near + 1 / on_all_cores)
        measured.limits.append(limit)
        measured.trained.append(rate)
        measured.start_ups.append(start_up)
        measured.steps += counted
        print(f"round {number + 1}: (a) {near:.2f}, (c) {rate:.2f}: {rate / limit:.3f} of the limit", flush=True)
    return measured


def _print_table(measured: _Measurements, options: argparse.Namespace) -> None:
    bare, limits, trained, plain = measured.bare, measured.limits, measured.trained, measured.plain
    hardware = torch.cuda.get_device_name() if _DEVICE.type == "cuda" else f"{joblib.cpu_count()} cores"
    title = f"{options.arch} at {options.size} px, batch {options.batch}{', torch.compile' if options.compile else ''}"
    print(f"\n{title}, {hardware}, torch {torch.__version__}\n")
    print("| what | images/s, median | of the limit, median |\n| --- | --- | --- |")
    numbers: dict[str, float] = {}
    for name, values in [
        (f"(a) bare step, {min(bare):.1f} to {max(bare):.1f}", bare[1:]),
        ("(b) augmentation alone, one core", [measured.augmented] * options.rounds),
        ("decoding alone, one core, once a run", [measured.decoded] * options.rounds),
        ("limit", limits),
        (f"(c) overlay train, {measured.steps} steps after first epochs", trained),
        ("(d) plain DataLoader loop, fp32", plain["fp32"]),
        ("(d) plain DataLoader loop, the same precision, channels_last", plain["auto"]),
    ]:
        print(f"| {name} | {median(values):.1f} | {_ratio(values, limits):.2f} |")
        numbers |= {f"{name}, images/s": median(values), f"{name}, of the limit": _ratio(values, limits)}
    fp32, same = _ratio(trained, plain["fp32"]), _ratio(trained, plain["auto"])
    print(f"\n(c) / fp32 loop: {fp32:.2f}; (c) / same precision: {same:.2f}")
    print(f"{median(measured.start_ups):.0f} s for start-up, final evaluation and end")
    append_record("train", current_record(numbers | {"start-up and end, s": median(measured.start_ups)}))


def _ratio(values: list[float], others: list[float]) -> float:
    """Return the median of the ratios, round by round."""
    return median(value / other for value, other in zip(values, others, strict=True))


if __name__ == "__main__":
    main()
