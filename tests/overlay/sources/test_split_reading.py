import io

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from overlay.config import MAX_PIXELS, Input
from overlay.errors import WorkError
from overlay.sources.split_reading import decode_rows

INPUT = Input(size=32)


def rows(*images: bytes) -> pa.Table:
    n = len(images)
    columns = {"id": [f"{i}.png" for i in range(n)], "image": [{"bytes": data, "path": ""} for data in images]}
    return pa.table({**columns, "label": ["a", "b", "a"][:n]})


def png(grey: int, side: int, mode: str = "L") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (side, side), grey).save(buffer, format="PNG")
    return buffer.getvalue()


def test_rows_are_decoded_and_resized() -> None:
    batch = decode_rows(rows(png(7, 64), png(9, 20)), INPUT, MAX_PIXELS)
    assert batch["id"].tolist() == ["0.png", "1.png"]
    assert batch["label"].tolist() == ["a", "b"]
    assert batch["reason"].tolist() == ["", ""]
    np.testing.assert_array_equal(batch["pixels"], np.repeat([7, 9], 32 * 32 * 3).reshape(2, 32, 32, 3))


def test_an_image_above_the_usual_limit_is_decoded_where_the_dataset_allows_it() -> None:
    large = png(1, 7200, mode="1")  # 51.84 million pixels
    batch = decode_rows(rows(large), INPUT, 52_000_000)
    np.testing.assert_array_equal(batch["pixels"], np.full((1, 32, 32, 3), 255))
    with pytest.raises(WorkError, match=r"the dataset's image 0.png can't be decoded \(too many pixels: 7200 x 7200"):
        decode_rows(rows(large), INPUT, MAX_PIXELS)


def test_a_damaged_image_is_named() -> None:
    with pytest.raises(WorkError, match=r"the dataset's image 1.png can't be decoded \(empty file\); prepare it again"):
        decode_rows(rows(png(0, 20), b""), INPUT, MAX_PIXELS)
