"""How much of the training step's own speed is left end to end: ``uv run python scripts/bench_train.py``.

In one run, on one machine, on phantoms: (a) the bare step on images that lie in memory, (b) decoding and augmenting
alone, on one core, and (c) `overlay train`, counted from the end of its first epoch to the end of its last. On CPUs
the work of (a) and (b) shares the cores, so the limit is 1 / (1/a + 1/(b * cores)).
"""

import argparse
import tempfile
import time
from pathlib import Path

import joblib
import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch.nn.functional import cross_entropy

from overlay import phantoms
from overlay.augment import augment, generator
from overlay.config import Augment, Input, Loop, Model, Optimizer, Prepare, Tracking, Train
from overlay.device import autocast, use_all_cores
from overlay.images import resize
from overlay.network import build, normalise
from overlay.optimization import build_optimizer
from overlay.pretrained import IMAGENET_MEAN, IMAGENET_STD


def bare_step(images: NDArray[np.uint8], arch: str, batch: int, steps: int) -> float:
    """Return images a second of forward, backward and optimizer step, after two steps that are not counted."""
    use_all_cores()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = build(arch, 3).to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = build_optimizer(network, Optimizer())
    mean, std = torch.tensor(IMAGENET_MEAN, device=device), torch.tensor(IMAGENET_STD, device=device)
    pixels = torch.from_numpy(np.resize(images, (batch, *images.shape[1:]))).to(device)
    labels = torch.zeros(batch, dtype=torch.int64, device=device)
    began = 0.0
    for step in range(steps + 2):
        if step == 2:
            began = time.perf_counter()
        with autocast(device, "auto"):
            logits = network(normalise(pixels, mean, std))
        cross_entropy(logits.float(), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return steps * batch / (time.perf_counter() - began)


def augment_alone(images: NDArray[np.uint8], seconds: float = 5.0) -> float:
    """Return images a second on one core."""
    began, done = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        augment(images[done % len(images)], Augment(), generator(0, done // len(images), done % len(images)))
        done += 1
    return done / (time.perf_counter() - began)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="resnet101")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--images", type=int, default=320, help="training images, about")
    parser.add_argument("--epochs", type=int, default=4)
    options = parser.parse_args()
    from pipelines import prepare, train

    shown = [phantoms.phantom("benign", seed=0, index=index)[0] for index in range(options.batch)]
    images = np.stack([resize(image, options.size, "squash") for image in shown])
    bare = bare_step(images, options.arch, options.batch, steps=8)
    alone = augment_alone(images)
    with tempfile.TemporaryDirectory() as folder:
        phantoms.write(Path(folder, "phantoms"), images_per_class=round(options.images / 0.7 / 3), seed=0)
        prepare.run(Prepare(sources=[f"{folder}/phantoms"], out=f"{folder}/dataset"))
        train.run(
            Train(
                dataset=f"{folder}/dataset",
                out=f"{folder}/run",
                input=Input(size=options.size),
                model=Model(arch=options.arch, weights="none"),
                train=Loop(epochs=options.epochs, batch_size=options.batch),
                tracking=Tracking(mode="disabled"),
            )
        )
        history = pq.read_table(f"{folder}/run/history.parquet").to_pydict()
    end_to_end = float(np.median(history["images_per_second"][1:]))
    cores = joblib.cpu_count()
    limit = bare if torch.cuda.is_available() else 1 / (1 / bare + 1 / (alone * cores))
    print(f"\n{options.arch} at {options.size} px, batch {options.batch}, {cores} cores, torch {torch.__version__}")
    for name, value in [
        ("bare step", bare),
        ("augmentation alone, one core", alone),
        ("limit", limit),
        ("overlay train, median epoch after the first", end_to_end),
    ]:
        print(f"{name:45} {value:8.1f} images/s   {value / limit:5.2f} of the limit")


if __name__ == "__main__":
    main()
