import tempfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st

from overlay.archives.entries import Span
from overlay.errors import ErrorKind, Reason
from overlay.images.ref import ImageRef
from overlay.sources.inputs import Portion
from overlay.sources.manifest import ManifestListing, first_difference, publish_file, publish_manifest, write_manifest
from overlay.sources.read_plan import ReadUnit
from overlay.storage.path import StoragePath


def listed(portions: list[Portion], folder: Path, part_rows: int) -> ManifestListing:
    folder.mkdir(parents=True)
    counts: list[int] = []
    listing = write_manifest(portions, folder, part_rows, counts.append)
    assert counts == np.cumsum([len(portion.images) for portion in portions]).tolist()
    return listing


def images(*names: str, version: str = "1") -> list[ImageRef]:
    return [ImageRef(name, f"/x/{name}", size=3, version=version) for name in names]


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 80), st.booleans()), min_size=1, max_size=5), st.integers(1, 90))
def test_each_input_is_in_one_group_of_one_unit(sizes: list[tuple[int, bool]], part_rows: int) -> None:
    portions = [
        Portion(images(*(f"{number}-{row}" for row in range(size))), in_order=in_order and size > 0)
        for number, (size, in_order) in enumerate(sizes)
    ]
    with tempfile.TemporaryDirectory() as folder:
        listing = listed(portions, Path(folder, "m"), part_rows)
        groups = range(len(listing.manifest.starts) - 1)
        ids = [row.id for group in groups for row in listing.manifest.read_group(group)]
        parts = [len(listing.manifest.read_part(part)) for part in range(listing.manifest.parts)]
        tables = [table["id"].to_pylist() for table in listing.manifest.iterate_groups(["id"])]
    assert sorted(ids) == sorted(image.id for portion in portions for image in portion.images)
    assert parts == [min(part_rows, len(ids) - start) for start in range(0, len(ids), part_rows)]
    assert sorted(group for unit in listing.units for group in unit.groups) == list(groups)
    assert [len(table) for table in tables] == [len(listing.manifest.rows_of_group(group)) for group in groups]
    assert [name for table in tables for name in table] == ids


def test_parts_groups_and_units(tmp_path: Path) -> None:
    names = [f"{number}" for number in range(100)]
    archive = [ImageRef(f"t{n}", "/x.tgz", f"{n}", spans=(Span("gzip", 512 * n, 1, 1, None),)) for n in range(40)]
    portions = [Portion(images(*names[:50])), Portion(archive, in_order=True), Portion(images(*names[50:]))]
    listing = listed(portions, tmp_path / "m", 45)
    manifest = listing.manifest
    assert (manifest.rows, manifest.parts) == (140, 4)
    files = [pq.read_table(tmp_path / "m" / f"part-{part:06d}.parquet")["id"].to_pylist() for part in range(4)]
    assert [len(ids) for ids in files] == [45, 45, 45, 5]
    together = [name for ids in files for name in ids]
    assert sorted(together) == sorted([*names, *(image.id for image in archive)])
    groups = range(len(manifest.starts) - 1)
    assert [row.id for group in groups for row in manifest.read_group(group)] == together
    assert all(len(manifest.rows_of_group(group)) <= 32 for group in groups)
    assert sorted(group for unit in listing.units for group in unit.groups) == list(groups)
    (in_order,) = [unit for unit in listing.units if unit.in_order]
    assert [row.id for group in in_order.groups for row in manifest.read_group(group)] == [f"t{n}" for n in range(40)]
    assert manifest.read_group(in_order.groups[0])[1] == archive[1]
    assert listing.without_overlay == 140


def test_the_fingerprint_tells_another_file(tmp_path: Path) -> None:
    one = listed([Portion(images("a", "b"))], tmp_path / "1", 10)
    same = listed([Portion(images("a")), Portion(images("b"))], tmp_path / "2", 1)
    other = listed([Portion(images("a")), Portion(images("b", version="2"))], tmp_path / "3", 10)
    more = listed([Portion(images("a", "b", "c"))], tmp_path / "4", 10)
    renamed = listed([Portion(images("a", "c"))], tmp_path / "5", 10)
    assert one.fingerprint == same.fingerprint
    assert len({each.fingerprint for each in (one, other, more, renamed)}) == 4
    there = StoragePath.of(tmp_path / "1")
    assert first_difference(other.manifest, there) == "b has changed"
    assert first_difference(renamed.manifest, there) == "c stands where b stood"
    assert first_difference(more.manifest, there) == "more or fewer files"
    assert first_difference(same.manifest, there) == "more or fewer files"  # of the manifest
    assert first_difference(one.manifest, there) is None


def test_a_published_manifest_is_whole(tmp_path: Path) -> None:
    listing = listed([Portion(images("a", "b", "c"))], tmp_path / "1", 2)
    there = StoragePath.of(tmp_path / "out")
    published = publish_manifest(listing.manifest, there, replace=False)
    assert there.children() == ["part-000000.parquet", "part-000001.parquet"]
    (there / "part-000001.parquet").remove()
    publish_manifest(listing.manifest, there, replace=False)
    assert [row.id for group in (0, 1) for row in published.read_group(group)] == ["a", "b", "c"]


def test_an_image_that_is_known_to_be_wrong_lacks_no_overlay(tmp_path: Path) -> None:
    wrong = ImageRef("a", "/a", reason=Reason("no", ErrorKind.REFUSED))
    listing = listed(
        [Portion([wrong, wrong._replace(id="b", reason=None, drawn=True)], passed_over={".txt": 3})], tmp_path / "1", 9
    )
    assert (listing.without_overlay, listing.passed_over) == (0, {".txt": 3})
    assert list(listing.units) == [ReadUnit((0,), in_order=False)]


def test_a_manifest_of_one_file(tmp_path: Path) -> None:
    portions = [Portion(images(*map(str, range(70)))), Portion(images("x", "y"), in_order=True)]
    listing = write_manifest(portions, tmp_path / "manifest.parquet", None, lambda _: None, group_rows=20)
    published = publish_file(listing.manifest, StoragePath.of(tmp_path / "out.parquet"))
    assert [len(published.rows_of_group(group)) for group in range(published.groups)] == [20, 20, 20, 2, 10]
    assert [ref.id for group in range(5) for ref in published.read_group(group)] == [
        *(str(number) for number in range(60)),
        *("x", "y"),
        *(str(number) for number in range(60, 70)),
    ]
    assert published.read_group(3) == images("x", "y")
    assert published.rows_of_part(0) == range(72)


def test_row_groups_hold_many_groups(tmp_path: Path) -> None:
    """So the footer, which each task reads, is small: it had a row group for each 32 rows, and was most of the file."""
    listing = listed([Portion(images(*map(str, range(12_000))))], tmp_path / "m", 10_000)
    manifest = listing.manifest
    metadata = [pq.read_metadata(manifest.file(part).path) for part in (0, 1)]
    assert [[each.row_group(group).num_rows for group in range(each.num_row_groups)] for each in metadata] == [
        [2048, 2048, 2048, 2048, 1808],
        [2000],
    ]
    assert metadata[0].serialized_size < 10_000
    for group in (0, 63, 64, 312, 313, manifest.groups - 1):
        rows = manifest.rows_of_group(group)
        assert [ref.id for ref in manifest.read_group(group)] == list(map(str, rows))
    file = write_manifest([Portion(images(*map(str, range(40_000))))], tmp_path / "one.parquet", None, lambda _: None)
    whole = pq.read_metadata(tmp_path / "one.parquet")
    assert [whole.row_group(group).num_rows for group in range(whole.num_row_groups)] == [16_384, 16_384, 7232]
    assert [ref.id for ref in file.manifest.read_group(512)] == list(map(str, range(16_384, 16_416)))
