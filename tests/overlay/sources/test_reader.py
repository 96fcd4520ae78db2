import gzip
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.archives.entries import Span
from overlay.archives.index import SPAN_TYPE, list_archive
from overlay.config import Limits
from overlay.errors import ImageError
from overlay.sources import reader
from overlay.sources.read_plan import ReadUnit, join_units, plan_reads, remove_done
from overlay.sources.reader import OneFile, Reader, read_in_order, rows_of
from overlay.storage.path import StoragePath
from tests.overlay.archives.test_index import tar, zipped


@dataclass(frozen=True)
class Row:
    uri: str
    spans: tuple[Span, ...] | None


def spans(*offsets: int, size: int = 10) -> tuple[Span, ...]:
    return tuple(Span("gzip", offset, size, size, None) for offset in offsets)


def test_what_can_be_read_anywhere_is_one_task_a_group() -> None:
    zipped = tuple(Span("deflated", i, 1, 1, 0) for i in range(2))
    rows = [Row("a.png", None), Row("x.zip", zipped), Row("y.tar", (Span("tar", 0, 1, 1, None),))]
    found = plan_reads(rows, rows=2)
    assert found.groups == [rows[:2], rows[2:]]
    assert found.units == [ReadUnit((0,), False), ReadUnit((1,), False)]


def test_an_archive_that_is_read_in_order_is_one_task() -> None:
    late, early, other = Row("x.tgz", spans(0, 900)), Row("x.tgz", spans(200, 100)), Row("y.tgz", spans(5))
    found = plan_reads([late, Row("a.png", None), other, early], rows=1)
    assert found.groups == [[Row("a.png", None)], [early], [late], [other]]
    assert found.units == [ReadUnit((0,), False), ReadUnit((1, 2), True), ReadUnit((3,), True)]
    assert remove_done(found.units, {0, 1}) == [ReadUnit((2,), True), ReadUnit((3,), True)]


@given(
    st.lists(st.lists(st.integers(0, 40), min_size=1, max_size=3, unique=True), min_size=1, max_size=30),
    st.integers(1, 8),
    st.integers(10, 200),
)
def test_every_record_is_read_once_and_what_waits_is_bounded(offsets: list[list[int]], rows: int, waiting: int) -> None:
    records = [Row("x.tgz", spans(*(100 * offset for offset in ends))) for ends in offsets]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reader, "WAITING_BYTES", waiting)
        found = plan_reads(records, rows)
    assert sorted(str(row) for group in found.groups for row in group) == sorted(map(str, records))
    assert sorted(group for unit in found.units for group in unit.groups) == list(range(len(found.groups)))
    assert all(1 <= len(group) <= rows for group in found.groups)
    for unit in found.units:
        together = [row for group in unit.groups for row in found.groups[group]]
        ends = [[span.offset for span in row.spans or ()] for row in together]
        assert [max(end) for end in ends] == sorted(max(end) for end in ends)
        for position in {min(end) for end in ends}:
            held = [10 * len(end) for end in ends if min(end) <= position <= max(end)]
            assert len(held) == 1 or sum(held) <= waiting


def write_manifest(path: Path, groups: list[list[Row]]) -> OneFile:
    schema = pa.schema([("uri", pa.string()), ("member", pa.string()), ("spans", pa.list_(SPAN_TYPE))])
    with pq.ParquetWriter(path, schema) as writer:
        for group in groups:
            rows = [{"uri": row.uri, "spans": [vars(span) for span in row.spans or ()]} for row in group]
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))
    return OneFile(StoragePath.of(path))


def test_groups_come_with_their_bytes(tmp_path: Path) -> None:
    files = {f"{kind}/{i}.png": f"{kind}{i}".encode() for kind in ("image", "mask") for i in range(5)}
    archive = tmp_path / "x.tar.gz"
    archive.write_bytes(gzip.compress(tar(files)))
    members = list_archive(StoragePath.of(archive), Limits()).members
    rows = [Row(str(archive), (members[f"image/{i}.png"], members[f"mask/{i}.png"])) for i in range(5)]
    found = plan_reads(rows, rows=2)
    manifest = write_manifest(tmp_path / "manifest.parquet", found.groups)
    (unit,) = found.units
    expected = [[[f"image{i}".encode(), f"mask{i}".encode()] for i in group] for group in ([0, 1], [2, 3], [4])]
    assert list(read_in_order(manifest, unit)) == list(enumerate(expected))
    assert list(read_in_order(manifest, ReadUnit((1,), True))) == [(1, expected[1])]
    some = ReadUnit((0, 1), True, {0: (1,)})
    assert list(read_in_order(manifest, some)) == [(0, expected[0][1:]), (1, expected[1])]
    assert [(row["group"], row["positions"]) for row in rows_of(some, manifest)] == [(0, (1,)), (1, None)]


def test_a_table_is_read_in_order(tmp_path: Path) -> None:
    uri = str(tmp_path / "t.parquet")
    pq.write_table(pa.table({"image": [bytes([row]) for row in range(6)]}), uri, row_group_size=4)
    schema = pa.schema([("uri", pa.string()), ("member", pa.string()), ("spans", pa.list_(SPAN_TYPE))])
    with pq.ParquetWriter(tmp_path / "manifest.parquet", schema) as writer:
        for group in ([0, 1], [2, 3], [4, 5]):
            rows = [{"uri": uri, "member": str(row), "spans": None} for row in group]
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))
    found = read_in_order(OneFile(StoragePath.of(tmp_path / "manifest.parquet")), ReadUnit((0, 2), True, {0: (1,)}))
    assert list(found) == [(0, [[b"\1"]]), (2, [[b"\4"], [b"\5"]])]


def test_an_archive_that_has_gone_leaves_its_groups_with_a_fault(tmp_path: Path) -> None:
    rows = [Row(str(tmp_path / "gone.tar.gz"), spans(0)), Row(str(tmp_path / "gone.tar.gz"), spans(10))]
    manifest = write_manifest(tmp_path / "manifest.parquet", [rows[:1], rows[1:]])
    unit = ReadUnit((0, 1), True)
    found = list(rows_of(unit, manifest))
    assert [(row["group"], row["contents"]) for row in found] == [(0, None), (1, None)]
    assert all("file that can't be read: [Errno 2]" in row["fault"] for row in found)


def test_groups_are_joined_where_there_are_many() -> None:
    units = [ReadUnit((number,), False, {3: (1,)} if number == 3 else {}) for number in range(20)] + [
        ReadUnit((20, 21), True)
    ]
    assert join_units(units, at_least=30, most=8)[1:] == units[:20]
    found = join_units(units, at_least=5, most=8)
    assert [unit.groups for unit in found] == [(20, 21), *((n, n + 1, n + 2, n + 3) for n in range(0, 20, 4))]
    assert [unit.left for unit in found][:3] == [{}, {3: (1,)}, {}]
    assert [len(unit.groups) for unit in join_units(units, at_least=1, most=8)] == [2, 8, 8, 4]


def test_a_reader_goes_from_archive_to_archive(tmp_path: Path) -> None:
    rows = []
    for name in ("x.zip", "y.zip"):
        (tmp_path / name).write_bytes(zipped({"a/1.png": name.encode(), "a/1_mask.png": b"mask"}))
        found = list_archive(StoragePath.of(tmp_path / name), Limits()).members
        uri, (member, *masks) = str(tmp_path / name), list(found)
        rows.append({"uri": uri, "member": member, "masks": masks, "spans": [vars(s) for s in found.values()]})
    with Reader() as reader:
        for row in (rows[0], rows[1], rows[0]):
            read = reader.of(row)
            assert (read("a/1.png"), read("a/1_mask.png")) == (Path(str(row["uri"])).name.encode(), b"mask")
        assert reader.of(rows[0], [b"known", b"too"])("a/1_mask.png") == b"too"
        (tmp_path / "y.zip").unlink()
        with pytest.raises(ImageError, match="file that can't be read: No such file"):
            reader.of(rows[1])("a/1.png")
