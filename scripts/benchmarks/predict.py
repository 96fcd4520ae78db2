"""How much of the model's own speed `overlay predict` leaves: ``uv run python scripts/benchmarks/predict.py``.

In one run, on one machine, on the same phantoms as PNG and the same ResNet at 224 pixels with random weights: (a) the
bare forward pass of each engine, (b) decoding alone, on one core, (c) `overlay predict` on Ray, as a process of its
own, and (d) what people write themselves: a loop over torch's DataLoader, in fp32 and in bf16, and Ray's documented
pipeline.

Speeds are counted from the first batch of results to the last; what all takes beyond that is the start-up. Each (c)
stands between two (a), of which the mean counts. On CPUs (a) and (b) share the cores, so the limit is
1 / (1/a + 1/(b * cores)); beside a GPU it is the slower of a and b * cores.

A second table is of a small job, 200 of these images, each row a process from its start to its end: `overlay predict`
as it is, which starts no Ray for so few, and beside it, in turn, timm and Daft (`others.py`) where they are installed:
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
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from overlay.engines.factory import open_engine, prepare_engine
from overlay.images import phantoms
from overlay.images.codec import decode_image, decode_target, resize_image
from overlay.models import model_file
from overlay.models.device import use_all_cores
from overlay.models.network import IMAGENET_MEAN, IMAGENET_STD, create_network

_SIZE = 224
_CLASSES = ("benign", "malignant", "normal")
_PREPROCESS = v2.Compose(
    [
        v2.ToImage(),
        v2.Resize((_SIZE, _SIZE)),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(IMAGENET_MEAN, IMAGENET_STD),
    ]
)


@dataclass(frozen=True)
class _Timed:
    """A job that classified all images."""

    rate: float
    """images a second from the first batch of results to the last"""
    seconds: float
    """all of it"""


def _make_images(folder: Path, count: int) -> Path:
    """Draw phantoms into one folder."""
    phantoms.write_phantoms(folder / "drawn", images_per_class=-(-count // 3), seed=0)
    drawn = sorted(path for path in (folder / "drawn").rglob("*.png") if "_mask" not in path.stem)[:count]
    (folder / "images").mkdir()
    for path in drawn:
        path.rename(folder / "images" / f"{path.parent.name}-{path.name}")
    return folder / "images"


def _make_model(folder: Path, arch: str) -> Path:
    """Write a network with random weights; one pass in training gives its normalisation usual statistics."""
    torch.manual_seed(0)
    network = create_network(arch, len(_CLASSES))
    with torch.no_grad():
        network(torch.randn(4, 3, _SIZE, _SIZE))
    card = model_file.ModelCard(
        arch, _CLASSES, _SIZE, "squash", IMAGENET_MEAN, IMAGENET_STD, None, "phantoms", "none", version("overlay")
    )
    model_file.save_model_file(folder / "model.pth", OrderedDict(network.state_dict()), card)
    return folder / "model.pth"


def _bare_forward(file: Path, kind: Any, precision: Any, batch: int, device: Any) -> tuple[float, str]:  # noqa: ANN401
    """Return images a second of an engine on images in memory, and its precision."""
    pixels = np.random.default_rng(0).integers(0, 256, (batch, _SIZE, _SIZE, 3), np.uint8)
    engine = open_engine(
        prepare_engine(model_file.load_model_file(file), kind, device, precision, pixels), batch_size=batch
    )
    for _ in range(3):
        engine(pixels)
    began, done = time.perf_counter(), 0
    while done < 4 * batch or time.perf_counter() - began < 10:
        engine(pixels)
        done += batch
    return done / (time.perf_counter() - began), engine.precision


def _decode_alone(images: Path) -> float:
    """Return images a second of one core that reads, decodes and resizes."""
    paths = sorted(images.iterdir())
    began = time.process_time()
    for path in paths:
        resize_image(decode_image(path.read_bytes(), target=decode_target(_SIZE, "squash")), _SIZE, "squash")
    return len(paths) / (time.process_time() - began)


def _predict(images: Path, out: Path, file: Path, kind: str, precision: str, batch: int) -> _Timed:
    """Run `overlay predict` on Ray, as a process of its own."""
    words = ["predict", str(file), str(images), "--out", str(out), f"--batch_size={batch}", "--actors=1"]
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "overlay", *words, f"--engine={kind}", f"--precision={precision}"],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    seconds = time.perf_counter() - began
    rows = pq.read_table(out / "metrics.parquet").to_pylist()
    return _Timed(next(row["value"] for row in rows if row["name"] == "images_per_second_once_started"), seconds)


def _small_job(images: Path, file: Path, count: int, rounds: int) -> list[tuple[str, list[float]]]:
    """Time whole processes on a few images, in turn; returns the seconds of each."""
    few = images.parent / "few" / "images"
    few.mkdir(parents=True)
    for path in sorted(images.iterdir())[:count]:
        (few / path.name).hardlink_to(path)
    others = str(Path(__file__).with_name("others.py"))
    jobs = {"**overlay predict**": ["-m", "overlay", "predict", str(file), str(few), "--out", str(few.parent / "out")]}
    jobs |= {
        f"{package} {version(package)}{how}": [others, package, str(few), str(file)]
        for package, how in (("timm", ", as its inference.py, bf16, channels_last"), ("daft", ", fp32"))
        if find_spec(package)
    }
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(rounds):
        for name, words in jobs.items():
            for made in ("out", "daft"):
                shutil.rmtree(few.parent / made, ignore_errors=True)
            began = time.perf_counter()
            subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            seconds[name].append(time.perf_counter() - began)
    return list(seconds.items())


class _Folder(Dataset[Tensor]):
    """A folder as people read it."""

    def __init__(self, folder: Path) -> None:
        self._paths = sorted(folder.iterdir())

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Tensor:
        with Image.open(self._paths[index]) as image:
            tensor: Tensor = _PREPROCESS(image.convert("RGB"))
        return tensor


def _timed(batches: Iterator[int]) -> _Timed:
    """Take the sizes of batches as they are done."""
    began = time.perf_counter()
    next(batches)
    started, rest = time.perf_counter(), 0
    for size in batches:
        rest += size
    ended = time.perf_counter()
    return _Timed(rest / (ended - started), ended - began)


def _loader_loop(images: Path, file: Path, batch: int, device: str, bf16: bool) -> Iterator[int]:
    """Loop over a DataLoader; yields the size of each batch once its result is there."""
    network = model_file.build_network(model_file.load_model_file(file)).to(device)
    if bf16:
        network = network.to(memory_format=torch.channels_last)
    with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=bf16):
        for pixels in DataLoader(_Folder(images), batch_size=batch, num_workers=2):
            moved = pixels.to(device)
            if bf16:
                moved = moved.contiguous(memory_format=torch.channels_last)
            network(moved).float().softmax(dim=1).cpu()
            yield len(pixels)


class _Classify:
    """The actor of Ray's documented pipeline (docs.ray.io, "Image classification batch inference with PyTorch")."""

    def __init__(self, file: str, device: str) -> None:
        use_all_cores()
        self._device = device
        self._network: nn.Module = model_file.build_network(model_file.load_model_file(file)).to(device)

    def __call__(self, rows: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Classify a batch."""
        with torch.inference_mode():
            logits = self._network(torch.from_numpy(np.stack(list(rows["image"]))).to(self._device))
        return {"probabilities": logits.softmax(dim=1).cpu().numpy()}


def _ray_documented(images: Path, file: Path, batch: int, device: str) -> Iterator[int]:
    """Run Ray's documented pipeline; yields the size of each batch once its result is there."""
    import ray.data

    rows = ray.data.read_images(str(images), mode="RGB")
    rows = rows.map(lambda row: {"image": _PREPROCESS(row["image"]).numpy()})
    scored = rows.map_batches(
        _Classify,
        fn_constructor_args=(str(file), device),
        compute=ray.data.ActorPoolStrategy(size=1),
        batch_size=batch,
        num_cpus=0.9,
        num_gpus=int(device == "cuda"),
    )
    for block in scored.iter_batches(batch_size=None):
        yield len(block["probabilities"])


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="resnet101")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--images", type=int, default=480)
    parser.add_argument("--engines", default="torch:auto,openvino:auto,openvino:int8", help="kind:precision, ...")
    parser.add_argument("--without", default="", help="rows to leave out: fp32, bf16, ray, small")
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    cores, batch = joblib.cpu_count(), options.batch
    rows: list[tuple[str, ...]] = []
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        images, file = _make_images(work, options.images), _make_model(work, options.arch)
        decoded = _decode_alone(images)
        rows.append(("decode and resize alone, one core", f"{decoded:.1f}", "", "", ""))
        wanted = [each for each in options.engines.split(",") if "openvino" not in each or device == "cpu"]
        for kind, precision in (each.split(":") for each in wanted if "openvino" not in each or find_spec("openvino")):
            with contextlib.redirect_stdout(sys.stderr):
                before, computed = _bare_forward(file, kind, precision, batch, device)
                whole = _predict(images, work / f"out-{kind}-{precision}", file, kind, precision, batch)
                after, _ = _bare_forward(file, kind, precision, batch, device)
            forward = (before + after) / 2
            limit = 1 / (1 / forward + 1 / (decoded * cores)) if device == "cpu" else min(forward, decoded * cores)
            alone = f"forward alone, {kind} in {computed}, before and after ({before:.1f}, {after:.1f})"
            rows.append((alone, f"{forward:.1f}", "", "", ""))
            share = f"{whole.rate / limit:.2f} of {limit:.1f}"
            rows.append((f"**overlay predict, {kind} in {computed}**", *_cells(whole, share, options.images)))
        for label, bf16 in (("fp32", False), ("bf16", True)):
            if label not in options.without:
                loop = _timed(_loader_loop(images, file, batch, device, bf16))
                rows.append((f"DataLoader loop, {label}", *_cells(loop, "", options.images)))
        small = _small_job(images, file, 200, rounds=3) if "small" not in options.without else []
        if "ray" not in options.without:
            from cluster import session

            session.connect()
            ray = _timed(_ray_documented(images, file, batch, device))
            rows.append(("Ray's documented pipeline, fp32", *_cells(ray, "", options.images)))
    where = torch.cuda.get_device_name() if device == "cuda" else f"{cores} cores"
    packages = [package for package in ("torch", "openvino", "ray") if find_spec(package)]
    versions = ", ".join(f"{package} {version(package)}" for package in packages)
    print(f"\n{options.arch} at {_SIZE} px, batches of {batch}, {options.images} PNGs, {where}, {versions}\n")
    print(
        "| what | images/s once started | of the limit | start-up, s | all of it, s |\n| --- | --- | --- | --- | --- |"
    )
    for row in rows:
        print(f"| {' | '.join(row)} |")
    if small:
        print("\n| 200 images, whole process | s, median | of all rounds |\n| --- | --- | --- |")
    for name, seconds in small:
        print(f"| {name} | {statistics.median(seconds):.1f} | {', '.join(f'{each:.1f}' for each in seconds)} |")


def _cells(job: _Timed, share: str, images: int) -> tuple[str, ...]:
    return f"{job.rate:.1f}", share, f"{job.seconds - images / job.rate:.1f}", f"{job.seconds:.1f}"


if __name__ == "__main__":
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    main()
