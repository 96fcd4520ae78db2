import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from overlay.duplicates import find
from overlay.images import encode_png
from overlay.sheets import Pair, Picture, contact_sheet, draw_classes, draw_duplicates, duplicates_sheet

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
        {"a": [Picture(png(BLUE), "x" * 99)] * 3, "b": [Picture(png(GREEN, 100, 400), "y")]}, across=2
    )
    found = colors(sheet)
    assert found[BLUE] == 3 * 168 * 42
    assert found[GREEN] == 33 * 132


def test_only_pairs_with_different_labels_are_marked() -> None:
    pair = Pair(Picture(png(BLUE), "x"), Picture(png(GREEN), "y"), "distance 3", conflict=False)
    marked = Pair(pair.first, pair.second, "identical pixels", conflict=True)
    assert WARNING not in colors(duplicates_sheet([pair], "1 pair"))
    assert colors(duplicates_sheet([pair, marked], "2 pairs"))[WARNING] > 1000
    assert colors(duplicates_sheet([pair, marked], "2 pairs"))[BLUE] == 2 * 168 * 42


def stored(folder: Path) -> tuple[list[dict[str, Any]], dict[str, Path]]:
    rows = [
        {"id": f"{label}/{i}.png", "label": label, "phash": f"{i % 7:064x}", "pixels": str(i)}
        for label in "ab"
        for i in range(20)
    ]
    images = [{"bytes": png(BLUE if row["label"] == "a" else GREEN), "path": ""} for row in rows]
    files: dict[str, Path] = {}
    for part in range(2):
        chosen = slice(part * 20, part * 20 + 20)
        table = {"id": [row["id"] for row in rows[chosen]], "image": images[chosen]}
        pq.write_table(pa.table(table), folder / f"{part}.parquet")
        files |= {row["id"]: folder / f"{part}.parquet" for row in rows[chosen]}
    return rows, files


def test_a_sample_of_each_class_is_drawn(tmp_path: Path) -> None:
    rows, files = stored(tmp_path)
    draw_classes(rows, files, tmp_path / "sheet.png", most=6)
    found = colors((tmp_path / "sheet.png").read_bytes())
    assert found[BLUE] == found[GREEN] == 6 * 168 * 42
    first = (tmp_path / "sheet.png").read_bytes()
    draw_classes(rows[::-1], files, tmp_path / "sheet.png", most=6)
    assert (tmp_path / "sheet.png").read_bytes() == first


def test_pairs_with_different_labels_are_drawn_first(tmp_path: Path) -> None:
    rows, files = stored(tmp_path)
    rows.sort(key=lambda row: row["id"])
    draw_duplicates(find(rows, 0), files, tmp_path / "pairs.png", most=9)
    found = colors((tmp_path / "pairs.png").read_bytes())
    assert found[BLUE] == found[GREEN] == 9 * 168 * 42
    draw_duplicates(find(rows[:3], 0), files, tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()
