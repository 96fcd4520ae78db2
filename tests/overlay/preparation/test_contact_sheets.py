import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from overlay.duplicates.near_duplicates import describe_pairs, search_pairs
from overlay.images.codec import encode_png
from overlay.preparation.contact_sheets import (
    Thumbnail,
    ThumbnailPair,
    contact_sheet,
    draw_classes,
    draw_duplicates,
    duplicates_sheet,
)

BLUE, GREEN = (0, 0, 255), (0, 255, 0)
WARNING = (0xC6, 0x28, 0x28)


def png(color: tuple[int, int, int], width: int = 400, height: int = 100) -> bytes:
    return encode_png(np.full((height, width, 3), color, np.uint8))


def colors(data: bytes) -> dict[tuple[int, ...], int]:
    image = Image.open(io.BytesIO(data))
    assert image.mode == "RGB"
    values, counts = np.unique(np.asarray(image).reshape(-1, 3), axis=0, return_counts=True)
    return {tuple(int(v) for v in value): int(count) for value, count in zip(values, counts, strict=True)}


def test_each_picture_is_on_the_contact_sheet_in_its_proportions() -> None:
    sheet = contact_sheet(
        {"a": [Thumbnail(png(BLUE), "x" * 99)] * 3, "b": [Thumbnail(png(GREEN, 100, 400), "y")]}, across=2
    )
    found = colors(sheet)
    assert found[BLUE] == 3 * 168 * 42
    assert found[GREEN] == 33 * 132


def test_only_pairs_with_different_labels_are_marked() -> None:
    pair = ThumbnailPair(Thumbnail(png(BLUE), "x"), Thumbnail(png(GREEN), "y"), "distance 3", conflict=False)
    marked = ThumbnailPair(pair.first, pair.second, "identical pixels", conflict=True)
    assert WARNING not in colors(duplicates_sheet([pair], "1 pair"))
    assert colors(duplicates_sheet([pair, marked], "2 pairs"))[WARNING] > 1000
    assert colors(duplicates_sheet([pair, marked], "2 pairs"))[BLUE] == 2 * 168 * 42


def stored(folder: Path) -> tuple[pa.Table, Callable[[int], Path]]:
    """Forty images in two files, of which those that are seven apart have the same hash."""
    ids = [f"{label}/{i:02}.png" for label in "ab" for i in range(20)]
    images = [{"bytes": png(BLUE if id.startswith("a") else GREEN), "path": ""} for id in ids]
    for part in range(2):
        chosen = slice(part * 20, part * 20 + 20)
        pq.write_table(pa.table({"id": ids[chosen], "image": images[chosen]}), folder / f"{part}.parquet")
    phash = [(i % 7).to_bytes(32) for _ in "ab" for i in range(20)]
    table = pa.table({"id": ids, "label": [id[0] for id in ids], "phash": phash, "pixels": ids})
    return table, lambda place: folder / f"{place // 20}.parquet"


def test_a_sample_of_each_class_is_drawn(tmp_path: Path) -> None:
    images, file_of = stored(tmp_path)
    draw_classes(images, file_of, tmp_path / "sheet.png", most=6)
    found = colors((tmp_path / "sheet.png").read_bytes())
    assert found[BLUE] == found[GREEN] == 6 * 168 * 42
    first = (tmp_path / "sheet.png").read_bytes()
    draw_classes(images.take(list(range(39, -1, -1))), lambda i: file_of(39 - i), tmp_path / "sheet.png", most=6)
    assert (tmp_path / "sheet.png").read_bytes() == first


def test_pairs_with_different_labels_are_drawn_first(tmp_path: Path) -> None:
    images, file_of = stored(tmp_path)
    draw_duplicates(describe_pairs(images, search_pairs(images["phash"], 0)), file_of, tmp_path / "pairs.png", most=9)
    found = colors((tmp_path / "pairs.png").read_bytes())
    assert found[BLUE] == found[GREEN] == 9 * 168 * 42
    few = images.slice(0, 3)
    draw_duplicates(describe_pairs(few, search_pairs(few["phash"], 0)), file_of, tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()
