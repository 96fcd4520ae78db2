"""Index and shards from staged files, without Ray."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from overlay.errors import ErrorKind, Reason
from overlay.images.ref import ImageRef
from overlay.preparation import staging
from overlay.preparation.staging import (
    STAGED_SCHEMA,
    assemble_shard,
    read_staged,
    read_stored_form,
    staged_path,
    write_index,
)
from overlay.sources.inputs import Portion
from overlay.sources.manifest import Manifest, write_manifest
from overlay.storage.path import StoragePath

IMAGES, STAGED = 23, 4  # six staged files
BROKEN = 9


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    refs = [ImageRef(f"{number:02d}", f"/x/{number}", label="a", group=f"g{number}") for number in range(IMAGES)]
    refs[BROKEN] = refs[BROKEN]._replace(reason=Reason("no image", ErrorKind.DAMAGED))
    return write_manifest([Portion(refs)], tmp_path / "m.parquet", None, lambda _: None, group_rows=STAGED).manifest


@pytest.fixture
def staged(tmp_path: Path, manifest: Manifest) -> StoragePath:
    folder = StoragePath.of(tmp_path / "work" / "staged")
    folder.make_folder()
    for part in range(manifest.groups):
        rows = [_row(number) for number in manifest.rows_of_group(part)]
        pq.write_table(pa.Table.from_pylist(rows, schema=STAGED_SCHEMA), staged_path(folder, part).path)
    return folder


def _row(number: int) -> dict[str, object]:
    known: dict[str, object] = {"id": f"{number:02d}", "uri": f"/x/{number}", "label": "a"}
    if number == BROKEN:
        return known | {"reason": "no image", "error_kind": "damaged"}
    image = {"bytes": bytes([number]), "path": "i.png"}
    return known | {"image": image, "encoding": "png", **dict.fromkeys(("phash", "pixels", "sha256"), f"{number:064x}")}


def test_staged_rows_come_sorted_with_groups_and_hashes(manifest: Manifest, staged: StoragePath) -> None:
    usable, rejected = read_staged(staged, manifest)
    numbers = [number for number in range(IMAGES) if number != BROKEN]
    assert usable["id"].to_pylist() == [f"{number:02d}" for number in numbers]
    assert usable["group"].to_pylist() == [f"g{number}" for number in numbers]
    assert usable["part"].to_pylist() == [number // STAGED for number in numbers]
    assert usable["phash"].to_pylist() == [number.to_bytes(32, "big") for number in numbers]
    assert rejected.select(["id", "reason"]).to_pylist() == [{"id": "09", "reason": "no image"}]
    digests, encodings = read_stored_form(staged, usable)
    assert digests.to_pylist() == [number.to_bytes(32, "big") for number in numbers]
    assert encodings == {"png": 22}


@pytest.mark.parametrize("row_group", [1, 10, 16_384])
def test_each_row_of_the_index_is_in_one_shard(
    row_group: int, manifest: Manifest, staged: StoragePath, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "_INDEX_ROW_GROUP", row_group)
    usable, _ = read_staged(staged, manifest)
    divided = usable.append_column("split", pa.array(["train", "val"] * 11))
    divided = divided.append_column("fold", pa.nulls(22, pa.int32()))
    shards = write_index(staged, divided, shard_rows=5)
    assert shards == [range(5), range(5, 10), range(10, 15), range(15, 20), range(20, 22)]
    out = StoragePath.of(tmp_path / "out")
    (out / "data").make_folder()
    assert [assemble_shard(rows, shard, staged, out) for shard, rows in enumerate(shards)] == [
        (5, 0),
        (5, 0),
        (5, 0),
        (5, 0),
        (2, 0),
    ]
    written = pq.read_table(tmp_path / "out" / "data").sort_by("id")
    assert written["id"].to_pylist() == usable["id"].to_pylist()
    assert written["split"].to_pylist() == ["train", "val"] * 11
    assert [image["bytes"][0] for image in written["image"].to_pylist()] == [int(id) for id in usable["id"].to_pylist()]
