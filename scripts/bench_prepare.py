"""How well `overlay prepare` uses the cores: ``uv run python scripts/bench_prepare.py [FOLDER]``.

In one run, on one machine, on phantoms or a folder in BUSI's layout, as PNG and as JPEG: images a second of a plain
loop in one process that does the same work on each image (decode, unite, draw, hash, encode), and of the same work in
`overlay prepare`, from its first image to its last. The goal is 1.8 times the loop on two cores.
"""

import argparse
import contextlib
import io
import re
import tempfile
import time
from pathlib import Path

from PIL import Image

from overlay import phantoms
from overlay.config import Limits, OverlayStyle, Prepare
from overlay.render import render
from overlay.sources import collect


def as_jpeg(source: Path, target: Path) -> None:
    """Copy a folder in BUSI's layout with its images as JPEG; masks stay PNG."""
    for path in sorted(source.rglob("*.png")):
        copy = target / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        if "_mask" in path.stem:
            copy.write_bytes(path.read_bytes())
        else:
            with Image.open(path) as image:
                image.convert("RGB").save(copy.with_suffix(".jpg"), quality=92)


def plain_loop(folder: Path) -> float:
    """Return images a second of one process, one after the other."""
    records = collect([str(folder)], Limits()).records
    began = time.perf_counter()
    for record in records:
        render(record.id, record.uri, record.masks, OverlayStyle(), 50_000_000)
    return len(records) / (time.perf_counter() - began)


def prepare_rate(folder: Path, out: Path) -> float:
    """Return images a second of the drawing pass, as the command prints it; starting Ray is not counted."""
    from pipelines import prepare

    with contextlib.redirect_stderr(io.StringIO()) as said:
        prepare.run(Prepare(sources=[str(folder)], out=str(out)))
    line = re.search(r"drawing: .* ([\d.]+) images/s", said.getvalue())
    assert line is not None, said.getvalue()
    return float(line[1])


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="images in BUSI's layout; phantoms where none is given")
    parser.add_argument("--images", type=int, default=600, help="number of phantoms, about")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        if options.folder is None:
            phantoms.write(work / "png", images_per_class=options.images // 3, seed=0)
        png = options.folder or work / "png"
        as_jpeg(png, work / "jpeg")
        prepare_rate(png, work / "warm")  # starts Ray and its workers
        print(f"{'format':8} {'plain loop':>12} {'prepare':>12} {'ratio':>8}")
        for label, folder in (("PNG", png), ("JPEG", work / "jpeg")):
            loop = plain_loop(folder)
            rate = prepare_rate(folder, work / f"dataset-{label}")
            print(f"{label:8} {loop:8.1f} i/s {rate:8.1f} i/s {rate / loop:8.2f}")


if __name__ == "__main__":
    main()
