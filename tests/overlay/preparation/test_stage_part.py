from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from overlay.config import Prepare
from overlay.errors import ErrorKind, Reason
from overlay.images.codec import encode_png
from overlay.images.ref import ImageRef
from overlay.preparation.stage_part import PartInput, StagedPart, stage_part
from overlay.preparation.staging import staged_parts, staged_path
from overlay.sources import reader
from overlay.sources.inputs import Portion
from overlay.sources.manifest import Manifest, write_manifest
from overlay.storage.path import StoragePath
from tests import hostile

CONFIG = Prepare(["source"], "dataset")


@pytest.fixture
def staged(tmp_path: Path) -> StoragePath:
    (tmp_path / "staged").mkdir()
    return StoragePath.of(tmp_path / "staged")


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    """Four inputs of one group: right, damaged, rejected by the listing, and not there."""
    (tmp_path / "right.png").write_bytes(hostile.picture())
    (tmp_path / "broken.png").write_bytes(b"no image")
    refs = [
        ImageRef(name, str(tmp_path / name), label="a") for name in ("right.png", "broken.png", "odd.png", "gone.png")
    ]
    refs[2] = refs[2]._replace(reason=Reason("mask without an image", ErrorKind.REFUSED))
    return write_manifest([Portion(refs)], tmp_path / "manifest.parquet", None, lambda _: None).manifest


def rows(staged: StoragePath) -> list[tuple[str, str | None, str | None]]:
    table = pq.read_table(staged_path(staged, 0).text, columns=["id", "reason", "error_kind"])
    return [(row["id"], row["reason"], row["error_kind"]) for row in table.to_pylist()]


def test_nothing_is_staged_where_an_input_cannot_be_read(staged: StoragePath, manifest: Manifest) -> None:
    outcome = stage_part(PartInput(0), manifest, staged, CONFIG)
    assert (outcome.part, outcome.unreadable) == (0, 1)
    assert outcome.fault == "gone.png: file that can't be read: No such file or directory"
    assert staged.children() == []


def test_an_accepted_part_is_marked_until_it_can_be_read(
    staged: StoragePath, manifest: Manifest, tmp_path: Path
) -> None:
    fault = "file that can't be read: No such file or directory"
    outcome = stage_part(PartInput(0), manifest, staged, CONFIG, accept=True)
    assert outcome == StagedPart(0, done=3, rejected=2, unreadable=1, fault=f"gone.png: {fault}")
    assert rows(staged) == [
        ("right.png", None, None),
        ("broken.png", "no image that can be read, by its content", "damaged"),
        ("odd.png", "mask without an image", "refused"),
        ("gone.png", fault, "unreadable"),
    ]
    assert staged_parts(staged) == set()
    (tmp_path / "gone.png").write_bytes(hostile.picture(1))
    assert stage_part(PartInput(0), manifest, staged, CONFIG) == StagedPart(0, done=3, rejected=1)
    assert rows(staged)[3] == ("gone.png", None, None)
    assert staged_parts(staged) == {0}


def test_a_fault_of_the_archive_is_one_of_each_image(staged: StoragePath, manifest: Manifest) -> None:
    lost = Reason("file that can't be read: [Errno 5]", ErrorKind.UNREADABLE)
    assert stage_part(PartInput(0, fault=lost), manifest, staged, CONFIG).unreadable == 1
    assert staged.children() == []
    torn = Reason("damaged table: torn", ErrorKind.DAMAGED)
    assert stage_part(PartInput(0, fault=torn), manifest, staged, CONFIG) == StagedPart(0, done=3, rejected=3)
    assert [kind for _, _, kind in rows(staged)] == ["damaged", "damaged", "refused", "damaged"]


def test_a_fault_of_the_disk_is_no_damage(
    staged: StoragePath, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(uri: str, limit: int) -> bytes:
        raise OSError(5, "Input/output error", uri)

    monkeypatch.setattr(reader, "read_bytes", fail)
    outcome = stage_part(PartInput(0), manifest, staged, CONFIG, accept=True)
    assert (outcome.done, outcome.rejected, outcome.unreadable) == (3, 3, 3)
    assert outcome.fault.startswith("right.png: file that can't be read: [Errno 5] Input/output error")


def test_images_are_stored_as_the_options_say(staged: StoragePath, manifest: Manifest, tmp_path: Path) -> None:
    (tmp_path / "right.png").write_bytes(encode_png(np.zeros((48, 64, 3), np.uint8)))
    config = Prepare(["source"], "dataset", encoding="webp", max_side=32)
    stage_part(PartInput(0), manifest, staged, config, accept=True)
    (row, *_) = pq.read_table(staged_path(staged, 0).text).to_pylist()
    assert (row["id"], row["encoding"], max(row["width"], row["height"])) == ("right.png", "webp", 32)
    assert row["image"]["bytes"][8:16] == b"WEBPVP8L"
