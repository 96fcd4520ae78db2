"""Differences of decoders and resize from Pillow: the largest and the mean in grey levels, over odd image files.

    uv run python scripts/benchmarks/decoder_differences.py [--write]

Each file is decoded by `overlay.images.codec` and resized as for a model, and compared with Pillow's decoding of the
whole file, resized by Pillow in one step. Prints a Markdown table, and with --write puts it into docs/performance.md.
"""

import argparse
import io
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from overlay.config import MAX_PIXELS, ResizeRule
from overlay.images.codec import decode_image, image_to_array, open_image
from overlay.images.png import decode_plain_png
from overlay.images.resize import decode_target, resize_image
from overlay.images.webp import decode_plain_webp
from scripts.benchmarks.odd_images import odd_images, speckled_picture
from scripts.benchmarks.record import ROOT

CORPUS_SHAPE = (960, 1280)
INPUT_SIZES = (448, 224, 112)
_PAGE = ROOT / "docs" / "performance.md"
_MARKS = ("<!-- decoder differences: begin -->\n", "<!-- decoder differences: end -->")


@dataclass(frozen=True)
class GreyDifference:
    """Difference of two images in grey levels of 255, over all channels."""

    largest: int
    mean: float

    def __str__(self) -> str:
        return f"{self.largest} ({self.mean:.2f})" if self.largest else "0"


@dataclass(frozen=True)
class DecoderDifferences:
    """Decoder of a file, and its differences from Pillow."""

    decoder: str
    """library that decodes it at its full size"""
    full: GreyDifference
    """from Pillow's decoding with our treatment of colours and depth"""
    plain: GreyDifference
    """from Pillow's own ``convert("RGB")``, after its ``exif_transpose``"""
    resized: tuple[GreyDifference, ...]
    """at each size of a model's input, from Pillow's decoding of the whole file and one bilinear resize"""
    scales: tuple[int, ...]
    """number by which the JPEG decoder divides the sides, for each size; 1 for other formats"""


def grey_difference(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> GreyDifference:
    """Return the difference of two images of one shape."""
    apart = np.abs(one.astype(np.int16) - other)
    return GreyDifference(int(apart.max()), float(apart.mean()))


def decoder_differences(data: bytes, sizes: Iterable[int], rule: ResizeRule = "squash") -> DecoderDifferences:
    """Measure one image file."""
    opened = open_image(data)
    whole = image_to_array(opened)
    with Image.open(io.BytesIO(data)) as image:
        plain = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    resized, scales = [], []
    for size in sizes:
        target = decode_target(size, rule)
        ours = resize_image(decode_image(data, target=target), size, rule)
        resized.append(grey_difference(ours, resize_in_one_step(whole, size, rule)))
        scales.append(round(opened.width / open_image(data, target=target).width))
    fast = {"libspng": decode_plain_png, "libwebp": decode_plain_webp}
    used = [name for name, decode in fast.items() if decode(data, MAX_PIXELS) is not None]
    ours = decode_image(data)
    return DecoderDifferences(
        "".join(used) or "Pillow",
        grey_difference(ours, whole),
        grey_difference(ours, plain),
        tuple(resized),
        tuple(scales),
    )


def resize_differences(image: NDArray[np.uint8], sizes: Iterable[int], rule: ResizeRule) -> tuple[GreyDifference, ...]:
    """Measure the resize alone, of an image, uint8 (height, width, 3), at each size."""
    return tuple(
        grey_difference(resize_image(image, size, rule), resize_in_one_step(image, size, rule)) for size in sizes
    )


def resize_in_one_step(image: NDArray[np.uint8], size: int, rule: ResizeRule) -> NDArray[np.uint8]:
    """Return an image resized by Pillow alone, by the same rules as `resize_image`, without reducing it first."""
    picture, bilinear = Image.fromarray(image), Image.Resampling.BILINEAR
    if rule == "squash":
        return np.asarray(picture.resize((size, size), bilinear))
    if rule == "pad":
        scaled, square = ImageOps.contain(picture, (size, size), bilinear), Image.new("RGB", (size, size))
        square.paste(scaled, ((size - scaled.width) // 2, (size - scaled.height) // 2))  # ImageOps.pad rounds up
        return np.asarray(square)
    shorter = decode_target(size, rule)
    factor = shorter / min(picture.size)
    width, height = (max(shorter, int(side * factor)) for side in picture.size)
    scaled = picture.resize((width, height), bilinear)
    left, top = (round((side - size) / 2) for side in scaled.size)
    return np.asarray(scaled.crop((left, top, left + size, top + size)))


def format_table(found: dict[str, DecoderDifferences], sizes: Iterable[int]) -> str:
    """Return the differences as a Markdown table; files with equal rows of one format share a row."""
    rows: dict[tuple[str, ...], list[str]] = {}
    for name, each in found.items():
        cells = [
            f"{apart}{f', at 1/{scale}' if scale > 1 else ''}"
            for apart, scale in zip(each.resized, each.scales, strict=True)
        ]
        kind, _, detail = name.partition(", ")
        rows.setdefault((kind, each.decoder, str(each.full), *cells, str(each.plain)), []).append(detail)
    heads = ["file", "decoder", "full size", *(f"{size} px" for size in sizes), "Pillow's own RGB"]
    lines = [heads, ["---"] * len(heads)]
    for (kind, *cells), details in rows.items():
        named = "; ".join(filter(None, details))
        lines.append([f"{kind}: {named}" if named else kind, *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def main() -> None:
    """Measure all files, print the table, and write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="replace the table in docs/performance.md")
    write = parser.parse_args().write
    files = odd_images(*CORPUS_SHAPE)
    table = format_table({name: decoder_differences(data, INPUT_SIZES) for name, data in files.items()}, INPUT_SIZES)
    for rule in get_args(ResizeRule):
        alone = resize_differences(speckled_picture(*CORPUS_SHAPE), INPUT_SIZES, rule)
        table += f"| resize alone: {rule} | | | {' | '.join(map(str, alone))} | |\n"
    print(table)
    if write:
        begin, end = map(re.escape, _MARKS)
        page = _PAGE.read_text()
        _PAGE.write_text(
            re.sub(f"({begin}).*?({end})", lambda match: match[1] + table + match[2], page, flags=re.DOTALL)
        )


if __name__ == "__main__":
    main()
