"""Benchmark of `overlay prepare`: throughput beside a loop in one process.

    uv run python scripts/benchmarks/prepare.py [FOLDER]

In one run, on one machine, on phantoms or a folder in BUSI's layout, as PNG and as JPEG: images/s of a plain loop in
one process that does the same work on each image (decode, unite, draw, hash, encode), and of `overlay prepare`: of its
drawing, of its drawing after start-up of every worker, and of the whole command with shards and near-duplicates. The
target is 1.8 times the loop on two cores, after start-up. The loop is timed before and after, since machines are noisy,
and once more with Pillow's PNG encoder at its defaults, which most scripts use.
"""

import argparse
import contextlib
import io
import os
import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from overlay.config import OverlayStyle, Prepare
from overlay.images import phantoms, render
from overlay.images.codec import encode_png
from overlay.images.ref import ImageRef
from overlay.sources.labelled import ListingOptions, list_labelled
from overlay.sources.reader import read_bytes
from scripts.benchmarks.record import append_record, current_record

_Encoder = Callable[[NDArray[np.uint8]], bytes]


def _as_jpeg(source: Path, target: Path) -> None:
    """Copy a folder in BUSI's layout with its images as JPEG; masks stay PNG."""
    for path in sorted(source.rglob("*.png")):
        copy = target / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        if "_mask" in path.stem:
            copy.write_bytes(path.read_bytes())
        else:
            with Image.open(path) as image:
                image.convert("RGB").save(copy.with_suffix(".jpg"), quality=92)


def _pillow_png(image: NDArray[np.uint8]) -> bytes:
    """Encode as PNG with Pillow's defaults."""
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    return stream.getvalue()


def _plain_loop(refs: list[ImageRef], encoder: _Encoder) -> float:
    """Return the throughput of one process, in images/s."""
    options = render.RenderOptions(OverlayStyle())
    with mock.patch.object(render, "encode_png", encoder):
        render.render_row(refs[0], options, read_bytes)  # imports
        began = time.perf_counter()
        for ref in refs:
            render.render_row(ref, options, read_bytes)
    return len(refs) / (time.perf_counter() - began)


def _prepare_rates(folder: Path, out: Path) -> tuple[float, float, float]:
    """Return the throughput, in images/s, of drawing, of drawing after start-up, and of the whole command."""
    from pipelines import prepare

    began = time.perf_counter()
    with contextlib.redirect_stderr(io.StringIO()) as said, contextlib.redirect_stdout(io.StringIO()):
        dataset = prepare.run(Prepare(sources=[str(folder)], out=str(out)))
    seconds = time.perf_counter() - began
    images = sum(sum(counts.values()) for counts in dataset.card.counts.values())
    line = re.search(r"drawing: .* ([\d.]+) images/s, once started ([\d.]+) images/s", said.getvalue())
    assert line is not None, said.getvalue()
    return float(line[1]), float(line[2]), images / seconds


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="images in BUSI's layout; phantoms where none is given")
    parser.add_argument("--images", type=int, default=1500, help="number of phantoms, about")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        if options.folder is None:
            phantoms.write_phantoms(work / "png", images_per_class=options.images // 3, seed=0)
        png = options.folder or work / "png"
        _as_jpeg(png, work / "jpeg")
        print(f"load of this machine in the last minute: {os.getloadavg()[0]:.1f}")
        columns = ("plain loop", "drawing", "once started", "whole", "Pillow's PNG", "ratio")
        print("".join(f"{column:>14}" for column in ("", *columns)))
        numbers: dict[str, float] = {}
        for label, folder in (("PNG", png), ("JPEG", work / "jpeg")):
            refs = [ref for ref, _ in list_labelled([str(folder)], ListingOptions(), work).read() if ref.reason is None]
            before = _plain_loop(refs[::2], encode_png)
            drawing, started, whole = _prepare_rates(folder, work / f"dataset-{label}")
            loop = (before + _plain_loop(refs[1::2], encode_png)) / 2
            usual = _plain_loop(refs[::4], _pillow_png)
            values = (loop, drawing, started, whole, usual)
            numbers |= {f"{label}, {name}, images/s": rate for name, rate in zip(columns, values, strict=False)}
            rates = "".join(f"{rate:>14.1f}" for rate in values)
            print(
                f"{label:>14}{rates}{started / loop:>14.2f}  ({started / usual:.1f} times the loop with Pillow's PNG)"
            )
    append_record("prepare", current_record(numbers))


if __name__ == "__main__":
    main()
