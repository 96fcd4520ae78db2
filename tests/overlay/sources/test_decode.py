from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from overlay.config import Input, Limits, OverlayStyle, ResizeRule
from overlay.images.decoder_pool import decoder_pool
from overlay.images.decoder_process import ProcessLimits
from overlay.images.ref import ImageRef
from overlay.images.render import RenderOptions, render_row
from overlay.images.resize import reduce_image, resize_image
from overlay.sources.decode import DecodeLimits, GroupDecoder, StoredLook, decode_ref
from overlay.sources.manifest import ManifestListing, write_manifest
from overlay.sources.reader import group_requests, read_bytes
from overlay.sources.resolve import resolve_inputs
from overlay.sources.split_reading import decode_stored
from tests import hostile


def kinds(listing: ManifestListing, limits: DecodeLimits) -> dict[str, tuple[str, str]]:
    """Decode all inputs; return id -> kind of error, empty without one, and the reason."""
    decoder = GroupDecoder(listing.manifest, StoredLook(32, "squash"), limits)
    found: dict[str, tuple[str, str]] = {}
    for unit in listing.units:
        for request in group_requests(unit, listing.manifest):
            batch = decoder(request)
            ids = [ref.id for ref in listing.manifest.read_group(request.group)]
            assert len(ids) == len(batch["row"])
            found |= dict(
                zip(ids, zip(batch["error_kind"].tolist(), batch["reason"].tolist(), strict=True), strict=True)
            )
            empty = [not pixels.any() for pixels in batch["pixels"]]
            assert empty == (batch["reason"] != "").tolist()
    return found


def listed(inputs: list[str], work: Path) -> ManifestListing:
    work.mkdir()
    return write_manifest(resolve_inputs(inputs, (), Limits()), work, 10_000, lambda _: None)


@pytest.fixture
def limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DecodeLimits]:
    """Limits whose decoder processes have the decoder that dies."""
    (tmp_path / "decoder").mkdir()
    hostile.install_decoder(tmp_path / "decoder")
    monkeypatch.syspath_prepend(tmp_path / "decoder")
    process = ProcessLimits(2**30, 30)
    decoder_pool.cache_clear()
    decoder_pool(process)
    yield DecodeLimits(process=process)
    decoder_pool(process).close()
    decoder_pool.cache_clear()


def test_files_and_archives(tmp_path: Path, limits: DecodeLimits) -> None:
    expected = hostile.write_files(tmp_path / "files") | hostile.write_archives(tmp_path / "files")
    found = kinds(listed([str(tmp_path / "files")], tmp_path / "work"), limits)
    assert {id: kind or None for id, (kind, _) in found.items()} == expected
    assert found["killer.jpg"][1] == "the decoder crashed: SIGSEGV"
    assert found["hog.jpg"][1] == "more than 1 GiB of memory to decode (limits.decode_bytes)"
    assert all(reason.isprintable() and len(reason) <= 250 for _, reason in found.values())


def test_tables(tmp_path: Path, limits: DecodeLimits) -> None:
    (tmp_path / "files").mkdir()
    for number, (name, expected) in enumerate(hostile.write_tables(tmp_path, tmp_path / "files").items()):
        found = kinds(listed([str(tmp_path / name)], tmp_path / f"work-{number}"), limits)
        assert {id: kind or None for id, (kind, _) in found.items()} == expected


def test_one_image_of_500_kills_the_decoder(tmp_path: Path, limits: DecodeLimits) -> None:
    (tmp_path / "files").mkdir()
    for number in range(500):
        (tmp_path / "files" / f"{number:03d}.png").write_bytes(hostile.picture(number))
    (tmp_path / "files" / "250.png").write_bytes(hostile.killer())
    found = kinds(listed([str(tmp_path / "files")], tmp_path / "work"), limits)
    assert len(found) == 500
    assert {id: kind for id, (kind, _) in found.items() if kind} == {"250.png": "crashed"}


def test_a_group_is_decoded_as_an_image_alone(tmp_path: Path, limits: DecodeLimits) -> None:
    (tmp_path / "files").mkdir()
    for number in range(3):
        (tmp_path / "files" / f"{number}.png").write_bytes(hostile.picture(number))
    together, alone = (
        listed([str(tmp_path / "files")], tmp_path / "1"),
        listed([str(tmp_path / "files/1.png")], tmp_path / "2"),
    )
    look = StoredLook(32, "squash")
    batches = [
        GroupDecoder(each.manifest, look, limits)(next(group_requests(each.units[0], each.manifest)))
        for each in (together, alone)
    ]
    assert np.array_equal(batches[0]["pixels"][1], batches[1]["pixels"][0])


@pytest.mark.parametrize("rule", ["squash", "pad", "crop"])
@pytest.mark.parametrize("side", [None, 60, 200])
@pytest.mark.parametrize(("name", "masked"), [("x.png", True), ("x.jpg", True), ("x.png", False), ("x.jpg", False)])
def test_a_prediction_sees_what_the_training_saw(
    tmp_path: Path, name: str, masked: bool, side: int | None, rule: ResizeRule
) -> None:
    """Also where the image is reduced in prepare, and where its JPEG is decoded at a reduced scale."""
    pixels = np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8)
    Image.fromarray(pixels).resize((160, 120), Image.Resampling.BICUBIC).save(tmp_path / name)
    Image.fromarray(pixels[..., 0] > 150).resize((160, 120)).save(tmp_path / "mask.png")
    ref = ImageRef("x", str(tmp_path / name), masks=(str(tmp_path / "mask.png"),) if masked else ())
    row = render_row(ref, RenderOptions(OverlayStyle(), max_side=side), read_bytes)
    assert row["width"] == (60 if side == 60 else 160)
    trained = decode_stored("x", row["image"]["bytes"], Input(size=32, resize=rule), 10**6)
    predicted = decode_ref(ref, StoredLook(32, rule, OverlayStyle(), side), 10**6, read_bytes)
    np.testing.assert_array_equal(predicted, trained)


def test_an_image_that_pillow_cannot_read_is_reduced_too(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "x.tif", np.random.default_rng(0).integers(0, 256, (5, 120, 160), np.uint8))
    ref = ImageRef("x", str(tmp_path / "x.tif"))
    row = render_row(ref, RenderOptions(OverlayStyle(), max_side=60), read_bytes)
    trained = decode_stored("x", row["image"]["bytes"], Input(size=32, resize="squash"), 10**6)
    np.testing.assert_array_equal(decode_ref(ref, StoredLook(32, "squash", None, 60), 10**6, read_bytes), trained)


def test_a_group_is_reduced_by_the_models_look(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "files" / "x.png")
    listing = listed([str(tmp_path / "files")], tmp_path / "work")
    request = next(group_requests(listing.units[0], listing.manifest))
    whole, reduced = (
        GroupDecoder(listing.manifest, StoredLook(32, "squash", max_side=side), DecodeLimits())(request)["pixels"][0]
        for side in (None, 40)
    )
    np.testing.assert_array_equal(reduced, resize_image(reduce_image(pixels, 40), 32, "squash"))
    assert np.abs(whole.astype(int) - reduced).max() > 4
