from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.config import Limits
from overlay.errors import RequestError
from overlay.sources.data_address import NOT_ALLOWED, DataAddresses, RefusedAddress, allowed_roots
from overlay.sources.input_list import read_list
from overlay.sources.input_table import list_table
from overlay.sources.inputs import ListingRule
from overlay.storage.address import split_query
from overlay.storage.path import StoragePath

TABLE = StoragePath.of("s3://bucket/tables?endpoint_override=localhost:9&scheme=http")
ROOT = StoragePath.of("s3://other/scans?region=us-east-1")
ANONYMOUS = StoragePath.of("gs://anonymous@public")


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("a/x.png", "s3://bucket/tables/a/x.png?endpoint_override=localhost:9&scheme=http"),
        ("s3://bucket/b/x.png", "s3://bucket/b/x.png?endpoint_override=localhost:9&scheme=http"),
        ("s3://other/scans/x.png", "s3://other/scans/x.png?region=us-east-1"),
        ("gs://public/x.png", "gs://anonymous@public/x.png"),
        ("scan?v=2.png", "s3://bucket/tables/scan?v=2.png?endpoint_override=localhost:9&scheme=http"),
        ("~/x.png", "s3://bucket/tables/~/x.png?endpoint_override=localhost:9&scheme=http"),
    ],
)
def test_addresses_of_a_table_in_a_bucket(text: str, read: str) -> None:
    assert str(DataAddresses(TABLE, (ROOT, ANONYMOUS)).locate(text)) == read


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/x.png?endpoint_override=evil:80&scheme=http",
        "s3://bucket/x.png#?endpoint_override=evil:80",
        "s3://bucket?endpoint_override=evil/x.png",
        "s3://bucket2/x.png",
        "s3://other/x.png",
        "s3://other/scans2/x.png",
        "s3://other/scans/../x.png",
        "../x.png",
        "./x.png",
        "s3://key:word@bucket/x.png",
        "s3://bucket:80@evil/x.png",
        "s3://bucket@evil/x.png",
        "S3://bucket/x.png",
        "gs://bucket/x.png",
        "gs://anonymous@bucket/x.png",
        "http://bucket/x.png",
        "https://bucket/x.png",
        "http://169.254.169.254/latest/meta-data/",
        "s3://169.254.169.254/latest/meta-data/",
        "file:///etc/passwd",
        "hdfs://host/x",
        "://x",
        "s3://",
        "s3:///x.png",
        "/etc/passwd",
        "//etc/passwd",
        "a\0b",
    ],
)
def test_addresses_that_data_may_not_name(text: str) -> None:
    with pytest.raises(RefusedAddress) as refusal:
        DataAddresses(TABLE, (ROOT,)).locate(text)
    assert str(refusal.value).startswith(f"{NOT_ALLOWED}: ")
    assert len(str(refusal.value)) <= 180
    assert "word" not in str(refusal.value)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A table's folder with a link in it that leads out, beside another folder."""
    for name in ("own/a", "cache", "other"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "own" / "link").symlink_to(tmp_path / "cache")
    (tmp_path / "own-by-link").symlink_to(tmp_path / "own")
    (tmp_path / "own" / "round").symlink_to("round")
    return tmp_path


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("x.png", "own/x.png"),
        ("a/../x.png", "own/x.png"),
        ("link/x.png", "own/link/x.png"),  # as DVC and git-annex lay files out
        ("{}/own/x.png", "own/x.png"),
        ("{}/own-by-link/x.png", "own-by-link/x.png"),
        ("{}/other/x.png", "other/x.png"),
        ("../other/x.png", "other/x.png"),
        ("x.png?a=b", "own/x.png?a=b"),
        ("~/x.png", "own/~/x.png"),
        ("x" * 300, "own/" + "x" * 300),
    ],
)
def test_files_on_a_disk(folder: Path, text: str, read: str) -> None:
    addresses = DataAddresses(StoragePath.of(folder / "own"), (StoragePath.of(folder / "other"),))
    assert addresses.locate(text.format(folder)) == StoragePath(f"{folder}/{read}")


@pytest.mark.parametrize(
    "text",
    [
        "../x.png",
        "a/../../own2/x.png",
        "link/../x.png",  # the folder above the link's target
        "{}/cache/x.png",
        "{}/own2/x.png",
        "{}/own/../cache/x.png",
        "{}/own/link/../x.png",
        "/etc/passwd",
        "s3://bucket/x.png",
        "\udcff/../../x",
    ],
)
def test_files_on_a_disk_outside(folder: Path, text: str) -> None:
    with pytest.raises(RefusedAddress, match=NOT_ALLOWED):
        DataAddresses(StoragePath.of(folder / "own")).locate(text.format(folder))


@given(st.text(st.sampled_from("./a~:?=&#@%s3\\ "), max_size=24))
def test_no_text_leads_out(text: str) -> None:
    """Whatever a row says, a path below the table's folder comes out, or an object of its bucket, or nothing."""
    for base, prefix in ((StoragePath("/data/t"), "/data/t/"), (StoragePath("s3://b/t"), "s3://b/")):
        try:
            found = DataAddresses(base).locate(text)
        except RefusedAddress:
            continue
        assert f"{found}/".startswith(prefix)
        assert ".." not in found.path.split("/")
        assert not found.in_bucket or split_query(str(found))[1] in ("", "?")


def test_a_table_all_of_whose_files_lie_outside(folder: Path) -> None:
    for name in ("1", "2"):
        (folder / "other" / f"{name}.png").write_text("x")
    rule = ListingRule("", Limits())
    uris = [f"{folder}/other/1.png", f"{folder}/other/2.png"]
    pq.write_table(pa.table({"uri": uris}), folder / "own" / "t.parquet")
    table = StoragePath.of(folder / "own" / "t.parquet")
    wrong = rf"names only files outside {folder}/own, which .*; give --allow_root {folder}/other$"
    with pytest.raises(RequestError, match=wrong):
        list(list_table(table, rule))
    refs = [ref for portion in list_table(table, rule, named=False) for ref in portion.images]
    assert [(ref.uri, ref.version) for ref in refs] == [(uri, "refused") for uri in uris]
    assert refs[0].reason == f"{NOT_ALLOWED}: outside {folder}/own; --allow_root {folder}/other would allow it"[:180]
    allowed = ListingRule("", Limits(), roots=allowed_roots(f"{folder}/other,{folder}/cache"))
    refs = [ref for portion in list_table(table, allowed) for ref in portion.images]
    assert [(ref.reason, ref.size) for ref in refs] == [(None, 1), (None, 1)]


def test_a_mask_outside(folder: Path) -> None:
    table = pa.table({"uri": ["x.png", "y.png"], "mask": [f"{folder}/cache/m.png", "m.png"]})
    pq.write_table(table, folder / "own" / "t.parquet")
    table = StoragePath.of(folder / "own" / "t.parquet")
    first, second = next(list_table(table, ListingRule("", Limits()))).images
    assert first.reason is not None
    assert (first.masks, second.masks, second.reason) == ((), (f"{folder}/own/m.png",), None)


def test_credentials_in_data_are_not_repeated(tmp_path: Path) -> None:
    uris = [f"s3://b/x.png?X-Amz-Signature=s3cr3t{number}" for number in range(2)]
    pq.write_table(pa.table({"uri": [*uris, "s3://k:s3cr3t@b/x.png", "x.png"]}), tmp_path / "t.parquet")
    refs = next(list_table(StoragePath.of(tmp_path / "t.parquet"), ListingRule("", Limits()))).images
    assert "s3cr3t" not in str(refs)
    assert len({ref.id for ref in refs}) == 4
    assert [ref.uri for ref in refs[:3]] == ["s3://b/x.png?X-Amz-Signature=***"] * 2 + ["s3://***"]


def test_lines_of_a_list(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder / "own")
    lines = ["a/x.png\n", "\n", f"{folder}/other/y.png\r\n", "http://h/x.png", "s3://k:s3cr3t@b/x", "a/x.png"]
    found = read_list(lines)
    assert [str(place) for place in found.places] == [f"{folder}/own/a/x.png"]
    assert [ref.id for ref in found.refused[:2]] == [f"{folder}/other/y.png", "http://h/x.png"]
    assert "s3cr3t" not in str(found)
    assert all(ref.reason and ref.reason.startswith(NOT_ALLOWED) for ref in found.refused)
    found = read_list(lines[:3], allowed_roots(str(folder / "other")))
    assert [str(place) for place in found.places] == [f"{folder}/own/a/x.png", f"{folder}/other/y.png"]


def test_a_list_all_of_which_lies_outside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder / "own")
    lines = [f"{folder}/other/a/1.png", f"{folder}/other/b/2.png", "s3://b/x/1.png", "s3://b/y/2.png"]
    with pytest.raises(RequestError, match=rf"the list names only .*; give --allow_root {folder}/other,s3://b$"):
        read_list(lines)
    assert read_list([]).places == []


def test_roots(tmp_path: Path) -> None:
    assert allowed_roots(None) == ()
    assert allowed_roots(f"{tmp_path},s3://b/x") == (StoragePath.of(tmp_path), StoragePath("s3://b/x"))
    assert DataAddresses(StoragePath("s3://b"), allowed_roots("/")).locate("/etc/passwd") == StoragePath("/etc/passwd")
    assert DataAddresses(StoragePath.of(tmp_path), allowed_roots("s3://b")).locate("s3://b") == StoragePath("s3://b")
    with pytest.raises(RequestError, match=r"allow_root .*gone is no folder; check the path"):
        allowed_roots(str(tmp_path / "gone"))
