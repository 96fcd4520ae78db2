import io
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from overlay.errors import ImageError
from overlay.images.codec import decode_image, image_format


def tiff(values: NDArray[Any], **options: Any) -> bytes:  # noqa: ANN401
    stream = io.BytesIO()
    tifffile.imwrite(stream, values, photometric="minisblack", **options)
    return stream.getvalue()


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_the_first_three_of_five_channels(planar: str, kind: type) -> None:
    top = 255 if kind is np.uint8 else 65535
    values: NDArray[Any] = np.random.default_rng(0).integers(0, top + 1, (6, 8, 5)).astype(kind)
    stored = values if planar == "contig" else np.moveaxis(values, -1, 0)
    data = tiff(stored, planarconfig=planar)
    expected = values[..., :3] if kind is np.uint8 else np.rint(values[..., :3] / 257)
    np.testing.assert_array_equal(decode_image(data), expected)
    assert image_format(data) == "tiff"


def test_other_channels_are_a_reason() -> None:
    with pytest.raises(ImageError, match="TIFF of 5 channels of float32; 3 to 64 of 8 or 16 bits can be read"):
        decode_image(tiff(np.zeros((6, 8, 5), np.float32), planarconfig="contig"))
    with pytest.raises(ImageError, match="too many pixels: 8 x 6, more than 47"):
        decode_image(tiff(np.zeros((6, 8, 5), np.uint8), planarconfig="contig"), max_pixels=47)
    with pytest.raises(ImageError, match=r"damaged or unsupported TIFF|no image"):
        decode_image(tiff(np.zeros((6, 8, 5), np.uint8), planarconfig="contig")[:40])


def test_a_reason_is_short_also_where_tifffiles_is_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as "(15199, 26149, ...) is not a known COMPRESSION", of a damaged tag with many values."""

    def fail(_: object) -> None:
        raise ValueError("x" * 300)

    data = tiff(np.zeros((6, 8, 5), np.uint8), planarconfig="contig")
    monkeypatch.setattr(tifffile, "TiffFile", fail)
    with pytest.raises(ImageError) as error:
        decode_image(data)
    assert len(str(error.value)) == 200
