"""Fault injection for decoders: 500 images, one on which the decoder dies by SIGSEGV, and one that takes 8 GiB.

    python scripts/fault_injection/poison.py --images 500
    python scripts/fault_injection/poison.py --images 500 --here

`overlay predict` in one process and on Ray, and `overlay prepare`: each must end by itself with 498 images and two rows
with a reason. The faulty decoder is a module that each Python process of the command loads at its start; it stands in
for Pillow, and looks for a mark in the bytes of an image. Prints status, seconds and rows of each command, and of the
same images without marks; exits with status 1 where a row is missing or has another kind of error.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from scripts.fault_injection.predict import write_random_model

KILLS, TAKES_MEMORY = b"kill me", b"take 8 GiB"
DECODER = f"""
import os, signal
import PIL.Image

real = PIL.Image.open

def open(file, *arguments, **options):
    data = file.getvalue() if hasattr(file, "getvalue") else b""
    if {KILLS!r} in data:
        os.kill(os.getpid(), signal.SIGSEGV)
    if {TAKES_MEMORY!r} in data:
        bytearray(8 * 2**30)
    return real(file, *arguments, **options)

PIL.Image.open = open
"""
_EXPECTED = {"crashed": 1, "too_large": 1}


def main() -> int:
    """Make the images, run the commands, and compare their rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--here", action="store_true", help="only predict in one process, without Ray")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="overlay-poison-") as temporary:
        folder = Path(temporary)
        (folder / "decoder").mkdir()
        (folder / "decoder" / "sitecustomize.py").write_text(DECODER)
        write_random_model(folder / "model.pth")
        clean, poisoned = folder / "clean", folder / "poisoned"
        for images in (clean, poisoned):
            _write_images(images, options.images)
        for number, mark in ((options.images // 2, KILLS), (options.images // 3, TAKES_MEMORY)):
            with _image(poisoned, number).open("ab") as file:
                file.write(mark)
        predict = ["predict", str(folder / "model.pth")]
        commands: dict[str, tuple[list[str], list[str]]] = {"predict": (predict, [])}
        if not options.here:
            commands |= {"predict on Ray": (predict, ["--actors", "1"]), "prepare": (["prepare"], [])}
        wrong = 0
        for name, (words, more) in commands.items():
            for images in (clean, poisoned):
                out = folder / f"{images.name}-{name.replace(' ', '-')}"
                kinds, seconds, status = _run([*words, str(images), "--out", str(out), *more], out, folder / "decoder")
                expected = {"": options.images, **({"": options.images - 2} | _EXPECTED if images is poisoned else {})}
                right = kinds == expected and status == 0
                wrong += not right
                print(f"{name}, {images.name}: status {status}, {seconds:.1f} s, {dict(kinds)}", flush=True)
        return int(wrong > 0)


def _write_images(folder: Path, count: int) -> None:
    chance = np.random.default_rng(0)
    for number in range(count):
        file = _image(folder, number)
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(chance.integers(0, 256, (128, 160, 3), np.uint8)).save(file)


def _image(folder: Path, number: int) -> Path:
    return folder / ("benign", "malignant")[number % 2] / f"{number:04d}.jpg"


def _run(words: list[str], out: Path, decoder: Path) -> tuple[Counter[str], float, int]:
    """Return the number of rows of each kind of error, empty for none; the seconds; and the exit status."""
    path = os.pathsep.join([str(decoder), *filter(None, [os.environ.get("PYTHONPATH")])])
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "overlay", *words],
        env=os.environ | {"PYTHONPATH": path},
        stdout=subprocess.DEVNULL,
        check=False,
    )
    seconds = time.monotonic() - began
    if words[0] == "predict":
        kinds = pq.read_table(out / "predictions", columns=["error_kind"])["error_kind"].to_pylist()
    else:
        rejected = pq.read_table(out / "rejected.parquet", columns=["error_kind"])["error_kind"].to_pylist()
        kinds = rejected + [None] * pq.read_table(out / "data", columns=["id"]).num_rows
    return Counter(kind or "" for kind in kinds), seconds, done.returncode


if __name__ == "__main__":
    sys.exit(main())
