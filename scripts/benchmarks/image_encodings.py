"""Encodings of a dataset: bytes, and images encoded and decoded a second on one core, as PNG and as lossless WebP.

    uv run python scripts/benchmarks/image_encodings.py [FOLDER]

Prints a row for phantoms, and for a folder in BUSI's layout where one is given: overlays as `overlay prepare` stores
them, by thread time, medians of five alternating rounds.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from overlay.config import OverlayStyle
from overlay.images import phantoms
from overlay.images.codec import decode_image, encode_png, image_to_array, open_image
from overlay.images.render import RenderOptions, render_overlay
from overlay.images.webp import encode_webp
from overlay.sources.labelled import ListingOptions, list_labelled
from overlay.sources.reader import read_bytes
from scripts.benchmarks.record import append_record, current_record

ENCODERS: Mapping[str, Callable[[NDArray[np.uint8]], bytes]] = {"PNG": encode_png, "WebP": encode_webp}
_ROUNDS = 5
_MOST = 60


def decode_by_pillow(data: bytes) -> NDArray[np.uint8]:
    """Return the pixels of an image file by Pillow alone, at its full size, uint8 (height, width, 3)."""
    return image_to_array(open_image(data))


def draw_overlays(folder: Path, work: Path, most: int = _MOST) -> list[NDArray[np.uint8]]:
    """Return at most so many overlays of a folder in BUSI's layout, evenly from its images."""
    refs = [ref for ref, _ in list_labelled([str(folder)], ListingOptions(), work).read() if ref.masks]
    chosen = refs[:: -(-len(refs) // most)]
    return [np.asarray(render_overlay(ref, RenderOptions(OverlayStyle()), 1, read_bytes)) for ref in chosen]


def measure_encodings(images: Sequence[NDArray[np.uint8]]) -> dict[str, float]:
    """Return name with unit -> number for each encoding of some images, each (height, width, 3)."""
    numbers: dict[str, float] = {}
    decoders = {"": decode_image, " by Pillow": decode_by_pillow}
    rates: dict[str, list[float]] = {}
    files = {}
    for name, encode in ENCODERS.items():
        began = time.thread_time()
        files[name] = [encode(image) for image in images]
        numbers[f"{name}, encoded/s"] = len(images) / (time.thread_time() - began)
        numbers[f"{name}, bytes"] = sum(map(len, files[name])) / len(images)
        assert all(np.array_equal(decode_image(data), image) for data, image in zip(files[name], images, strict=True))
    for _ in range(_ROUNDS):
        for name, encoded in files.items():
            for by, decode in decoders.items():
                began = time.thread_time()
                for data in encoded:
                    decode(data)
                rates.setdefault(f"{name}, decoded/s{by}", []).append(len(images) / (time.thread_time() - began))
    return numbers | {name: statistics.median(values) for name, values in rates.items()}


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="images with masks in BUSI's layout, beside phantoms")
    folder = parser.parse_args().folder
    found: dict[str, float] = {}
    print("| images | encoding | bytes | encoded/s | decoded/s | of PNG | decoded/s by Pillow |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        phantoms.write_phantoms(work / "phantoms", images_per_class=_MOST // 2, seed=0)
        for label, source in (("phantoms", work / "phantoms"), ("given", folder)):
            if source is None:
                continue
            images = draw_overlays(source, work)
            numbers = measure_encodings(images)
            found |= {f"{label}, {key}": value for key, value in numbers.items()}
            for kind in ENCODERS:
                size, encoded, decoded, pillow = (
                    numbers[f"{kind}, {column}"]
                    for column in ("bytes", "encoded/s", "decoded/s", "decoded/s by Pillow")
                )
                of_png = decoded / numbers["PNG, decoded/s"]
                print(
                    f"| {len(images)} {label} | {kind} | {size:,.0f} | {encoded:.0f} | {decoded:.0f} | {of_png:.2f} | "
                    f"{pillow:.0f} |"
                )
    append_record("encodings", current_record(found))


if __name__ == "__main__":
    main()
