import gzip
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.archives.entries import Span
from overlay.archives.index import list_archive
from overlay.config import Limits
from overlay.errors import ImageError
from overlay.images.ref import MANIFEST_SCHEMA, ImageRef, refs_table
from overlay.sources import read_plan
from overlay.sources.manifest import Manifest
from overlay.sources.read_plan import ReadUnit, archive_passes, cut_groups, join_units, remove_done
from overlay.sources.reader import Reader, group_requests, read_bytes, read_in_order
from overlay.storage.path import StoragePath
from tests.overlay.archives.test_index import tar, zipped


@dataclass(frozen=True)
class Row:
    uri: str
    spans: tuple[Span, ...] | None


def spans(*offsets: int, size: int = 10) -> tuple[Span, ...]:
    return tuple(Span("gzip", offset, size, size, None) for offset in offsets)


def test_units_without_what_is_done() -> None:
    units = [ReadUnit((0,), False), ReadUnit((1, 2), True), ReadUnit((3,), True)]
    assert remove_done(units, {0, 1}) == [ReadUnit((2,), True), ReadUnit((3,), True)]


@given(
    st.lists(st.lists(st.integers(0, 40), min_size=1, max_size=3, unique=True), min_size=1, max_size=30),
    st.integers(1, 8),
    st.integers(10, 200),
)
def test_every_record_is_read_once_and_what_waits_is_bounded(offsets: list[list[int]], rows: int, waiting: int) -> None:
    records = [Row("x.tgz", spans(*(100 * offset for offset in ends))) for ends in offsets]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(read_plan, "WAITING_BYTES", waiting)
        passes = list(archive_passes(records))
        groups = [list(cut_groups(one_pass, rows)) for one_pass in passes]
    assert sorted(str(row) for one_pass in passes for row in one_pass) == sorted(map(str, records))
    assert [[row for group in cut for row in group] for cut in groups] == passes
    assert all(1 <= len(group) <= rows for cut in groups for group in cut)
    for together in passes:
        ends = [[span.offset for span in row.spans or ()] for row in together]
        assert [max(end) for end in ends] == sorted(max(end) for end in ends)
        for position in {min(end) for end in ends}:
            held = [10 * len(end) for end in ends if min(end) <= position <= max(end)]
            assert len(held) == 1 or sum(held) <= waiting


def written(path: Path, groups: list[list[ImageRef]]) -> Manifest:
    with pq.ParquetWriter(path, MANIFEST_SCHEMA) as writer:
        for group in groups:
            writer.write_table(refs_table(group))
    return Manifest(StoragePath.of(path), None, np.cumsum([0, *map(len, groups)]))


def test_groups_come_with_their_bytes(tmp_path: Path) -> None:
    files = {f"{kind}/{i}.png": f"{kind}{i}".encode() for kind in ("image", "mask") for i in range(5)}
    archive = tmp_path / "x.tar.gz"
    archive.write_bytes(gzip.compress(tar(files)))
    members = list_archive(StoragePath.of(archive), Limits()).members
    rows = [
        ImageRef(f"{i}", str(archive), spans=(members[f"image/{i}.png"], members[f"mask/{i}.png"])) for i in range(5)
    ]
    manifest = written(tmp_path / "manifest.parquet", [rows[:2], rows[2:4], rows[4:]])
    unit = ReadUnit((0, 1, 2), True)
    expected = [[[f"image{i}".encode(), f"mask{i}".encode()] for i in group] for group in ([0, 1], [2, 3], [4])]
    assert list(read_in_order(manifest, unit)) == list(enumerate(expected))
    assert list(read_in_order(manifest, ReadUnit((1,), True))) == [(1, expected[1])]
    some = ReadUnit((0, 1), True, {0: (1,)})
    assert list(read_in_order(manifest, some)) == [(0, expected[0][1:]), (1, expected[1])]
    assert [(each.group, each.positions) for each in group_requests(some, manifest)] == [(0, (1,)), (1, None)]


def test_a_table_is_read_in_order(tmp_path: Path) -> None:
    uri = str(tmp_path / "t.parquet")
    pq.write_table(pa.table({"image": [bytes([row]) for row in range(6)]}), uri, row_group_size=4)
    groups = [[ImageRef(f"{row}", uri, f"{row}") for row in group] for group in ([0, 1], [2, 3], [4, 5])]
    manifest = written(tmp_path / "manifest.parquet", groups)
    found = read_in_order(manifest, ReadUnit((0, 2), True, {0: (1,)}))
    assert list(found) == [(0, [[b"\1"]]), (2, [[b"\4"], [b"\5"]])]


def test_an_archive_that_has_gone_leaves_its_groups_with_a_fault(tmp_path: Path) -> None:
    rows = [ImageRef(f"{offset}", str(tmp_path / "gone.tar.gz"), spans=spans(offset)) for offset in (0, 10)]
    manifest = written(tmp_path / "manifest.parquet", [rows[:1], rows[1:]])
    found = list(group_requests(ReadUnit((0, 1), True), manifest))
    assert [(each.group, each.contents) for each in found] == [(0, None), (1, None)]
    assert all("file that can't be read: [Errno 2]" in (each.fault or "") for each in found)


def test_groups_are_joined_where_there_are_many() -> None:
    units = [ReadUnit((number,), False, {3: (1,)} if number == 3 else {}) for number in range(20)] + [
        ReadUnit((20, 21), True)
    ]
    assert join_units(units, at_least=30, most=8)[1:] == units[:20]
    found = join_units(units, at_least=5, most=8)
    assert [unit.groups for unit in found] == [(20, 21), *((n, n + 1, n + 2, n + 3) for n in range(0, 20, 4))]
    assert [unit.positions for unit in found][:3] == [{}, {3: (1,)}, {}]
    assert [len(unit.groups) for unit in join_units(units, at_least=1, most=8)] == [2, 8, 8, 4]


def test_a_reader_goes_from_archive_to_archive(tmp_path: Path) -> None:
    rows = []
    for name in ("x.zip", "y.zip"):
        (tmp_path / name).write_bytes(zipped({"a/1.png": name.encode(), "a/1_mask.png": b"mask"}))
        found = list_archive(StoragePath.of(tmp_path / name), Limits()).members
        uri, (member, *masks) = str(tmp_path / name), list(found)
        rows.append(ImageRef(member, uri, member, tuple(masks), spans=tuple(found.values())))
    with Reader() as reader:
        for row in (rows[0], rows[1], rows[0]):
            read = reader.read_function(row)
            assert (read("a/1.png"), read("a/1_mask.png")) == (Path(row.uri).name.encode(), b"mask")
        assert reader.read_function(rows[0], [b"known", b"too"])("a/1_mask.png") == b"too"
        (tmp_path / "y.zip").unlink()
        with pytest.raises(ImageError, match="file that can't be read: No such file"):
            reader.read_function(rows[1])("a/1.png")


def test_reading_is_bounded_and_of_regular_files(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"12345")
    assert read_bytes(str(tmp_path / "x"), 5) == b"12345"
    with pytest.raises(ImageError, match=r"^file too large: more than 4 bytes \(limits.member_bytes\)$"):
        read_bytes(str(tmp_path / "x"), 4)
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path / "pipe", tmp_path, Path("/dev/zero")):
        with pytest.raises(ImageError, match=r"^not a regular file"):
            read_bytes(str(place))
    with pytest.raises(ImageError, match=r"^file that can't be read: No such file"):
        read_bytes(str(tmp_path / "gone"))
