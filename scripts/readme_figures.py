"""Figures of the README: ``uv run overlay demo && uv run python scripts/readme_figures.py overlay-demo``.

docs/overlay.png shows phantoms, their masks and the overlays; docs/report.png is a screenshot of the demo's report by
headless Chromium (Debian's package chromium).
"""

import argparse
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from overlay.config import OverlayStyle
from overlay.images import masks, phantoms

DOCS = Path(__file__).parent.parent / "docs"
WIDTH, HEIGHT, GAP = 300, 255, 8


def overlay_figure(path: Path) -> None:
    """Write one row for each of benign and malignant: image, mask, fill, contour."""
    rows = []
    for name, index in (("benign", 3), ("malignant", 5)):
        image, found = phantoms.draw_phantom(name, seed=0, index=index)  # type: ignore[arg-type]
        mask = masks.unite_masks(found)
        white = np.repeat(mask[:, :, None], 3, axis=2).astype(np.uint8) * 255
        shown = [
            image,
            white,
            masks.draw_mask(image, mask, OverlayStyle()),
            masks.draw_mask(image, mask, OverlayStyle("contour")),
        ]
        rows.append([Image.fromarray(each).resize((WIDTH, HEIGHT)) for each in shown])
    sheet = Image.new("RGB", (4 * WIDTH + 3 * GAP, 2 * HEIGHT + GAP), "white")
    for row, pictures in enumerate(rows):
        for column, picture in enumerate(pictures):
            sheet.paste(picture, (column * (WIDTH + GAP), row * (HEIGHT + GAP)))
    sheet.save(path, optimize=True)


def report_figure(report: Path, path: Path) -> None:
    """Write a screenshot of the top of a report."""
    with tempfile.TemporaryDirectory() as profile:
        flags = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--disable-background-networking",
            "--hide-scrollbars",
        ]
        page = [f"--user-data-dir={profile}", f"--screenshot={path}", "--window-size=1100,1420", report.as_uri()]
        subprocess.run(["chromium", *flags, *page], check=True, capture_output=True)


def main() -> None:
    """Write both figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path, help="folder of a demo")
    options = parser.parse_args()
    DOCS.mkdir(exist_ok=True)
    overlay_figure(DOCS / "overlay.png")
    report_figure((options.demo / "run" / "evaluation" / "report.html").absolute(), DOCS / "report.png")


if __name__ == "__main__":
    main()
