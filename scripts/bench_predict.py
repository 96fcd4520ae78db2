"""How much of the model's own speed `overlay predict` leaves: ``uv run python scripts/bench_predict.py``.

In one run, on one machine, on the same phantoms as PNG and the same ResNet at 224 pixels with random weights: (a) the
bare forward pass of each engine, (b) decoding alone, on one core, (c) `overlay predict` as a process of its own, and
(d) what people write themselves: a loop over torch's DataLoader, in fp32 and in bf16, and Ray's documented pipeline.

(c) and (d) run on N images and on 2 N. What the second N take is the time once started, and what the first N take
beyond that is the start-up. On CPUs (a) and (b) share the cores, so the limit is 1 / (1/a + 1/(b * cores)); beside a
GPU it is the slower of a and b * cores.
"""

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from overlay import model, phantoms
from overlay.device import use_all_cores
from overlay.engines import open_engine, prepare
from overlay.images import decode, decode_target, resize
from overlay.network import build
from overlay.pretrained import IMAGENET_MEAN, IMAGENET_STD

SIZE = 224
CLASSES = ("benign", "malignant", "normal")
_PREPROCESS = v2.Compose(
    [
        v2.ToImage(),
        v2.Resize((SIZE, SIZE)),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(IMAGENET_MEAN, IMAGENET_STD),
    ]
)


@dataclass(frozen=True)
class Images:
    """Two folders of PNGs."""

    once: Path
    twice: Path
    """each image of the first, two times"""
    count: int


def make_images(folder: Path, count: int) -> Images:
    """Draw phantoms."""
    phantoms.write(folder / "drawn", images_per_class=-(-count // 3), seed=0)
    drawn = sorted(path for path in (folder / "drawn").rglob("*.png") if "_mask" not in path.stem)[:count]
    once, twice = folder / "once", folder / "twice"
    for target, copies in ((once, 1), (twice, 2)):
        target.mkdir()
        for copy in range(copies):
            for path in drawn:
                shutil.copy(path, target / f"{copy}-{path.name}")
    return Images(once, twice, len(drawn))


def make_model(folder: Path, arch: str) -> Path:
    """Write a network with random weights; one pass in training gives its normalisation usual statistics."""
    torch.manual_seed(0)
    network = build(arch, len(CLASSES))
    with torch.no_grad():
        network(torch.randn(4, 3, SIZE, SIZE))
    card = model.ModelCard(
        arch, CLASSES, SIZE, "squash", IMAGENET_MEAN, IMAGENET_STD, None, "phantoms", "none", version("overlay")
    )
    model.save(folder / "model.pth", OrderedDict(network.state_dict()), card)
    return folder / "model.pth"


def bare_forward(file: Path, kind: Any, precision: Any, batch: int, device: Any) -> tuple[float, str]:  # noqa: ANN401
    """Return images a second of an engine on images in memory, and its precision."""
    pixels = np.random.default_rng(0).integers(0, 256, (batch, SIZE, SIZE, 3), np.uint8)
    engine = open_engine(prepare(model.load(file), kind, device, precision, pixels), batch_size=batch)
    engine(pixels)
    began, done = time.perf_counter(), 0
    while done < 4 * batch or time.perf_counter() - began < 5:
        engine(pixels)
        done += batch
    return done / (time.perf_counter() - began), engine.precision


def decode_alone(images: Images) -> float:
    """Return images a second of one core that reads, decodes and resizes."""
    paths = sorted(images.once.iterdir())
    began = time.process_time()
    for path in paths:
        resize(decode(path.read_bytes(), target=decode_target(SIZE, "squash")), SIZE, "squash")
    return len(paths) / (time.process_time() - began)


def predict(folder: Path, work: Path, file: Path, kind: str, precision: str, batch: int) -> float:
    """Return the seconds of a whole `overlay predict`."""
    out = work / f"out-{kind}-{precision}-{folder.name}"
    words = ["predict", str(file), str(folder), "--out", str(out), f"--batch_size={batch}"]
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "overlay", *words, f"--engine={kind}", f"--precision={precision}"],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return time.perf_counter() - began


class Folder(Dataset[Tensor]):
    """A folder as people read it."""

    def __init__(self, folder: Path) -> None:
        self._paths = sorted(folder.iterdir())

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Tensor:
        with Image.open(self._paths[index]) as image:
            tensor: Tensor = _PREPROCESS(image.convert("RGB"))
        return tensor


def loader_loop(folder: Path, file: Path, batch: int, device: str, bf16: bool) -> float:
    """Return the seconds of a loop over a DataLoader; loading the model is not counted."""
    network = model.network(model.load(file)).to(device)
    if bf16:
        network = network.to(memory_format=torch.channels_last)
    loader = DataLoader(Folder(folder), batch_size=batch, num_workers=2)
    began = time.perf_counter()
    with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=bf16):
        for images in loader:
            images = images.to(device)
            if bf16:
                images = images.contiguous(memory_format=torch.channels_last)
            network(images).float().softmax(dim=1).cpu()
    return time.perf_counter() - began


class Classify:
    """The actor of Ray's documented pipeline (docs.ray.io, "Image classification batch inference with PyTorch")."""

    def __init__(self, file: str, device: str) -> None:
        use_all_cores()
        self._device = device
        self._network: nn.Module = model.network(model.load(file)).to(device)

    def __call__(self, rows: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Classify a batch."""
        with torch.inference_mode():
            logits = self._network(torch.from_numpy(np.stack(list(rows["image"]))).to(self._device))
        return {"probabilities": logits.softmax(dim=1).cpu().numpy()}


def ray_documented(folder: Path, file: Path, batch: int, device: str) -> float:
    """Return the seconds of Ray's documented pipeline; starting Ray is not counted."""
    import ray.data

    began = time.perf_counter()
    rows = ray.data.read_images(str(folder), mode="RGB")
    rows = rows.map(lambda row: {"image": _PREPROCESS(row["image"]).numpy()})
    rows.map_batches(
        Classify,
        fn_constructor_args=(str(file), device),
        compute=ray.data.ActorPoolStrategy(size=1),
        batch_size=batch,
        num_cpus=0.9,
        num_gpus=int(device == "cuda"),
    ).materialize()
    return time.perf_counter() - began


def started(images: Images, run: Callable[[Path], float]) -> tuple[float, float, float]:
    """Return images a second once started, the seconds of the start, and the seconds of all for N images."""
    first, both = run(images.once), run(images.twice)
    each = (both - first) / images.count
    return 1 / each, first - each * images.count, first


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="resnet101")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--images", type=int, default=240)
    parser.add_argument("--engines", default="torch:auto,openvino:auto,openvino:int8", help="kind:precision, ...")
    parser.add_argument("--without", default="", help="rows to leave out: fp32, bf16, ray")
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    cores = joblib.cpu_count()
    rows: list[tuple[str, ...]] = []
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        images, file = make_images(work, options.images), make_model(work, options.arch)
        decoded = decode_alone(images)
        rows.append(("decode and resize alone, one core", f"{decoded:.1f}", "", "", ""))
        forward, limit = {}, {}
        wanted = [each for each in options.engines.split(",") if "openvino" not in each or device == "cpu"]
        wanted = [each for each in wanted if "openvino" not in each or find_spec("openvino")]
        for each in wanted:
            kind, precision = each.split(":")
            with contextlib.redirect_stdout(sys.stderr):
                forward[each], computed = bare_forward(file, kind, precision, options.batch, device)
            both = 1 / (1 / forward[each] + 1 / (decoded * cores))
            limit[each] = both if device == "cpu" else min(forward[each], decoded * cores)
            rows.append((f"forward alone, {kind} in {computed}", f"{forward[each]:.1f}", "", "", ""))
        for each in wanted:
            kind, precision = each.split(":")
            whole = partial(predict, work=work, file=file, kind=kind, precision=precision, batch=options.batch)
            rate, start, seconds = started(images, whole)
            share = f"{rate / limit[each]:.2f} of {limit[each]:.1f}"
            rows.append((f"**overlay predict, {each}**", f"{rate:.1f}", share, f"{start:.1f}", f"{seconds:.1f}"))
        for label, bf16 in (("fp32", False), ("bf16", True)):
            if label not in options.without:
                loop = partial(loader_loop, file=file, batch=options.batch, device=device, bf16=bf16)
                rate, start, seconds = started(images, loop)
                rows.append((f"DataLoader loop, {label}", f"{rate:.1f}", "", f"{start:.1f}", f"{seconds:.1f}"))
        if "ray" not in options.without:
            from cluster import session

            session.connect()
            rate, start, seconds = started(
                images, partial(ray_documented, file=file, batch=options.batch, device=device)
            )
            rows.append(("Ray's documented pipeline, fp32", f"{rate:.1f}", "", f"{start:.1f}", f"{seconds:.1f}"))
    where = torch.cuda.get_device_name() if device == "cuda" else f"{cores} cores"
    packages = [package for package in ("torch", "openvino", "ray") if find_spec(package)]
    versions = ", ".join(f"{package} {version(package)}" for package in packages)
    print(f"\n{options.arch} at {SIZE} px, batches of {options.batch}, {images.count} PNGs, {where}, {versions}\n")
    print(
        "| what | images/s once started | of the limit | start-up, s | all of it, s |\n| --- | --- | --- | --- | --- |"
    )
    for row in rows:
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    main()
