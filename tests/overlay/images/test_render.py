import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from overlay.config import Encoding, OverlayStyle
from overlay.errors import ImageError
from overlay.evaluation.audit_views import undo_error, undo_fill
from overlay.images.codec import decode_image
from overlay.images.hashing import perceptual_hash, pixels_digest
from overlay.images.masks import decode_mask, draw_mask
from overlay.images.ref import ImageRef
from overlay.images.render import RenderedRow, RenderOptions, render_row
from overlay.images.resize import reduce_image, reduce_mask
from overlay.images.webp import WEBP_SIDE
from overlay.sources.reader import read_bytes

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
LIMIT = 10_000
ENCODINGS: tuple[Encoding, Encoding] = ("png", "webp")


def save(path: Path, pixels: NDArray[np.uint8]) -> str:
    Image.fromarray(pixels).save(path)
    return str(path)


def rendered(id: str, uri: str, masks: list[str], style: OverlayStyle, limit: int = LIMIT) -> RenderedRow:
    return render_row(ImageRef(id, uri, masks=tuple(masks)), RenderOptions(style, limit), read_bytes)


def mask(rows: slice, columns: slice, height: int = 20, width: int = 30) -> NDArray[np.uint8]:
    pixels = np.zeros((height, width), np.uint8)
    pixels[rows, columns] = 255
    return pixels


def test_masks_are_united_drawn_and_measured(tmp_path: Path) -> None:
    image = save(tmp_path / "x.png", PIXELS)
    first = save(tmp_path / "x_mask.png", mask(slice(2, 6), slice(2, 12)))
    second = save(tmp_path / "x_mask_1.png", mask(slice(10, 14), slice(2, 12)))
    style = OverlayStyle()
    row = rendered("a/x.png", image, [first, second], style)
    both = (mask(slice(2, 6), slice(2, 12)) | mask(slice(10, 14), slice(2, 12))) > 0
    expected = draw_mask(PIXELS, both, style)
    np.testing.assert_array_equal(decode_image(row["image"]["bytes"]), expected)
    assert row["image"]["path"] == "a/x.png"
    assert (row["width"], row["height"], row["overlay"], row["mask_lesions"]) == (30, 20, "fill", 2)
    assert row["mask_area_share"] == pytest.approx(80 / 600)
    assert row["phash"] == perceptual_hash(PIXELS)
    assert row["sha256"] == hashlib.sha256(b"(20, 30, 3)" + expected.tobytes()).hexdigest()
    assert row["mask"] is not None
    assert row["mask"]["path"] == "a/x.png.mask.png"
    with Image.open(io.BytesIO(row["mask"]["bytes"])) as stored:
        assert (stored.format, stored.mode) == ("PNG", "1")
        np.testing.assert_array_equal(np.asarray(stored), both)
    assert row["encoding"] == "png"
    assert row["pixels"] == hashlib.sha256(b"(20, 30, 3)" + PIXELS.tobytes()).hexdigest()


def test_an_empty_mask_has_no_numbers(tmp_path: Path) -> None:
    image = save(tmp_path / "x.png", PIXELS)
    row = rendered(
        "a/x.png",
        image,
        [save(tmp_path / "m.png", mask(slice(0), slice(0)))],
        OverlayStyle(),
    )
    np.testing.assert_array_equal(decode_image(row["image"]["bytes"]), PIXELS)
    assert row["overlay"] == "fill"
    assert "mask_area_share" not in row


@pytest.mark.parametrize(("masks", "style"), [(0, "fill"), (1, "none")])
def test_bytes_stay_where_nothing_is_drawn(tmp_path: Path, masks: int, style: str) -> None:
    stream = io.BytesIO()
    Image.fromarray(PIXELS).save(stream, "JPEG")
    (tmp_path / "x.jpg").write_bytes(stream.getvalue())
    files = [save(tmp_path / "m.png", mask(slice(2, 6), slice(2, 12)))][:masks]
    row = rendered("a/x.jpg", str(tmp_path / "x.jpg"), files, OverlayStyle(style))  # type: ignore[arg-type]
    assert row["image"]["bytes"] == stream.getvalue()
    assert (row["encoding"], row["mask"] is None) == ("jpeg", masks == 0)
    assert row["overlay"] == "none"
    assert row["sha256"] == hashlib.sha256(stream.getvalue()).hexdigest()
    assert row.get("mask_lesions") == (1 if masks else None)


def test_reasons(tmp_path: Path) -> None:
    image = save(tmp_path / "x.png", PIXELS)
    small = save(tmp_path / "small_mask.png", mask(slice(0), slice(0), 20, 31))
    broken = tmp_path / "broken_mask.png"
    broken.write_bytes(b"no image")
    style = OverlayStyle()
    with pytest.raises(ImageError, match=r"mask of another size: small_mask\.png has 31 x 20 pixels, its image 30 "):
        rendered("x", image, [small], style)
    with pytest.raises(ImageError, match=r"mask that can't be used: broken_mask\.png: "):
        rendered("x", image, [str(broken)], style)
    with pytest.raises(ImageError, match=r"mask that can't be used: gone\.png: file that can't be read"):
        rendered("x", image, [str(tmp_path / "gone.png")], style)
    with pytest.raises(ImageError, match="file that can't be read: No such file"):
        rendered("x", str(tmp_path / "gone.png"), [], style)
    with pytest.raises(ImageError):
        rendered("x", str(broken), [], style)
    with pytest.raises(ImageError, match="too many pixels: 30 x 20, more than 599"):
        rendered("x", image, [], style, 599)


def test_webp_holds_the_pixels_of_png(tmp_path: Path) -> None:
    image = save(tmp_path / "x.png", PIXELS)
    ref = ImageRef("a/x.png", image, masks=(save(tmp_path / "m.png", mask(slice(2, 6), slice(2, 12))),))
    png, webp = (render_row(ref, RenderOptions(OverlayStyle(), encoding=each), read_bytes) for each in ENCODINGS)
    assert webp["image"]["bytes"][8:16] == b"WEBPVP8L"
    np.testing.assert_array_equal(decode_image(webp["image"]["bytes"]), decode_image(png["image"]["bytes"]))
    changed = {key for key in png if png[key] != webp[key]}  # type: ignore[literal-required]
    assert changed == {"image", "encoding"}
    assert (png["encoding"], webp["encoding"]) == ENCODINGS


def test_images_without_a_mask_keep_their_bytes_beside_webp(tmp_path: Path) -> None:
    image = save(tmp_path / "x.png", PIXELS)
    row = render_row(ImageRef("x", image), RenderOptions(OverlayStyle(), encoding="webp"), read_bytes)
    assert (row["image"]["bytes"], row["encoding"]) == (Path(image).read_bytes(), "png")


def test_what_is_encoded_anew_without_a_mask_becomes_webp(tmp_path: Path) -> None:
    image = save(tmp_path / "x.png", PIXELS[:, :, 0].astype(np.uint16))
    row = render_row(ImageRef("x", image), RenderOptions(OverlayStyle(), bits=8, encoding="webp"), read_bytes)
    assert row["encoding"] == "webp"
    np.testing.assert_array_equal(decode_image(row["image"]["bytes"])[..., 1], PIXELS[:, :, 0])


@pytest.mark.parametrize(("side", "encoding"), [(WEBP_SIDE, "webp"), (WEBP_SIDE + 1, "png")])
def test_a_side_that_webp_cannot_hold_stays_png(tmp_path: Path, side: int, encoding: str) -> None:
    pixels = np.zeros((1, side, 3), np.uint8)
    marks = save(tmp_path / "m.png", np.full((1, side), 255, np.uint8))
    ref = ImageRef("x", save(tmp_path / "x.png", pixels), masks=(marks,))
    row = render_row(ref, RenderOptions(OverlayStyle(alpha=1), encoding="webp"), read_bytes)
    assert row["encoding"] == encoding
    np.testing.assert_array_equal(decode_image(row["image"]["bytes"]), pixels + np.array([255, 59, 48], np.uint8))


def test_a_larger_image_and_its_mask_are_reduced_before_the_overlay_is_drawn(tmp_path: Path) -> None:
    marks = mask(slice(4, 16), slice(6, 20))
    ref = ImageRef("x", save(tmp_path / "x.png", PIXELS), masks=(save(tmp_path / "m.png", marks),))
    style = OverlayStyle()
    whole, row = (render_row(ref, RenderOptions(style, max_side=side), read_bytes) for side in (None, 15))
    small, lesion = reduce_image(PIXELS, 15), reduce_mask(marks > 0, 15)
    expected = draw_mask(small, lesion, style)
    np.testing.assert_array_equal(decode_image(row["image"]["bytes"]), expected)
    assert row["mask"] is not None
    np.testing.assert_array_equal(decode_mask(row["mask"]["bytes"]), lesion)
    assert (row["width"], row["height"], row["encoding"], row["overlay"]) == (15, 10, "png", "fill")
    assert row["mask_area_share"] == lesion.mean()
    assert row["sha256"] == pixels_digest(expected)
    assert (row["phash"], row["pixels"]) == (whole["phash"], whole["pixels"])  # near-duplicates stay the same
    np.testing.assert_array_equal(undo_fill(expected, lesion, style)[~lesion], small[~lesion])
    assert np.abs(undo_fill(expected, lesion, style).astype(int) - small).max() <= undo_error(style)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_without_a_mask_only_a_larger_image_is_encoded_anew(tmp_path: Path, encoding: Encoding) -> None:
    image = save(tmp_path / "x.jpg", PIXELS)
    data = Path(image).read_bytes()
    kept, reduced = (
        render_row(ImageRef("x", image), RenderOptions(OverlayStyle(), encoding=encoding, max_side=side), read_bytes)
        for side in (30, 29)
    )
    assert (kept["image"]["bytes"], kept["encoding"], kept["width"]) == (data, "jpeg", 30)
    assert (reduced["encoding"], reduced["width"], reduced["height"]) == (encoding, 29, 19)
    np.testing.assert_array_equal(decode_image(reduced["image"]["bytes"]), reduce_image(decode_image(data), 29))


def test_a_mask_of_another_size_is_refused_before_reduction(tmp_path: Path) -> None:
    small = save(tmp_path / "m.png", mask(slice(0), slice(0), 10, 15))
    ref = ImageRef("x", save(tmp_path / "x.png", PIXELS), masks=(small,))
    with pytest.raises(ImageError, match=r"mask of another size: m\.png has 15 x 10 pixels, its image 30 x 20"):
        render_row(ref, RenderOptions(OverlayStyle(), max_side=15), read_bytes)


def test_a_fault_that_may_pass_is_no_bad_image() -> None:
    def fail(_: str) -> bytes:
        raise OSError("too slow")

    with pytest.raises(OSError, match="too slow"):
        render_row(ImageRef("x", "x"), RenderOptions(OverlayStyle()), fail)
