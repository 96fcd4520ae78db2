import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from overlay.errors import RequestError, WorkError, faults_end_the_work
from overlay.storage import object_store
from overlay.storage.atomic import write_atomically, write_text_atomically
from overlay.storage.parquet import open_parquet
from overlay.storage.path import StoragePath


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> StoragePath:
    """An empty folder, of either kind."""
    if request.param == "folder":
        return StoragePath.of(tmp_path)
    return StoragePath.of(request.getfixturevalue("new_bucket")())


@pytest.fixture
def bucket(new_bucket: Callable[[], str]) -> StoragePath:
    return StoragePath.of(new_bucket())


def test_files_and_folders(place: StoragePath) -> None:
    assert (place.children(), place.files()) == ([], [])
    inner = place / "a" / "b c (1)?"
    inner.make_folder()
    for name in ("2.txt", "1.txt"):
        write_text_atomically(inner / name, name)
    write_text_atomically(place / "top.txt", "0123456789")
    assert place.children() == ["a", "top.txt"]
    assert sorted(place.files()) == ["a/b c (1)?/1.txt", "a/b c (1)?/2.txt", "top.txt"]
    assert (inner / "1.txt").read_bytes() == b"1.txt"
    assert [inner.exists(), inner.is_folder(), inner.is_file()] == [True, True, False]
    top = place / "top.txt"
    assert [top.exists(), top.is_folder(), top.is_file(), top.size()] == [True, False, True, 10]
    assert (top.name, str(top.parent), inner.name) == ("top.txt", str(place), "b c (1)?")
    (place / "a").remove()
    (place / "nothing").remove()
    assert place.children() == ["top.txt"]
    top.remove()
    assert place.children() == []


def test_reading_with_seeks(place: StoragePath) -> None:
    data = os.urandom(300_000)
    with write_atomically(place / "x") as temporary:
        temporary.write_bytes(data)
    with (place / "x").open(buffer=1000) as file:
        assert file.read(10) == data[:10]
        assert file.seek(-20, os.SEEK_END) == len(data) - 20
        assert file.read() == data[-20:]
        assert file.read() == b""
        file.seek(150_000)
        assert file.read(100_000) == data[150_000:250_000]
        assert file.tell() == 250_000
    with pytest.raises(FileNotFoundError):
        (place / "y").read_bytes()
    with pytest.raises(FileNotFoundError):
        (place / "y").open()


def test_a_write_that_fails_leaves_the_old_file(place: StoragePath) -> None:
    write_text_atomically(place / "x", "old")
    with pytest.raises(ZeroDivisionError), write_atomically(place / "x") as temporary:
        temporary.write_text(str(1 / (temporary.write_text("half") - 4)))
    assert place.children() == ["x"]
    assert (place / "x").read_bytes() == b"old"


def test_bytes_stay_as_they_are_whatever_the_name(place: StoragePath) -> None:
    with write_atomically(place / "x.tar.gz") as temporary:
        temporary.write_bytes(b"plain")
    assert (place / "x.tar.gz").size() == 5
    assert (place / "x.tar.gz").read_bytes() == b"plain"


def test_parquet(place: StoragePath) -> None:
    with write_atomically(place / "x.parquet") as temporary:
        pq.write_table(pa.table({"a": [1, 2]}), temporary)
    assert open_parquet(place / "x.parquet").read().to_pydict() == {"a": [1, 2]}
    write_text_atomically(place / "torn.parquet", "PAR1")
    with pytest.raises(OSError, match=r"torn\.parquet.* is no whole Parquet file \(.*\); delete it and try again"):
        open_parquet(place / "torn.parquet")


def test_a_place_pickles_and_compares_as_its_text(bucket: StoragePath) -> None:
    write_text_atomically(bucket / "x", "x")
    again = pickle.loads(pickle.dumps(bucket / "x"))
    assert again == bucket / "x"
    assert again.read_bytes() == b"x"
    address, query = str(bucket).split("?")
    assert str(bucket / "a" / "b") == f"{address}/a/b?{query}"
    assert str(StoragePath.of(f"{address}/a/?{query}")) == f"{address}/a?{query}"


def test_the_endpoint_may_stand_in_the_environment(bucket: StoragePath, monkeypatch: pytest.MonkeyPatch) -> None:
    address, query = str(bucket).split("?")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://" + query.split("=")[1].split("&")[0])
    write_text_atomically((StoragePath.of(address) / "x"), "x")
    assert bucket.children() == ["x"]
    object_store.bucket_filesystem.cache_clear()


def test_a_public_bucket_of_google_needs_no_credentials() -> None:
    place = StoragePath.of("gs://anonymous@bucket/a/b.png")
    assert (place.path, place.name, str(place.parent)) == ("bucket/a/b.png", "b.png", "gs://anonymous@bucket/a")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ftp://host/x", r"ftp://host/x is no address that can be used; give a path, s3://bucket/\.\.\. or gs://"),
        ("s3://", "is no address that can be used"),
        ("s3://key:secret@bucket/x", r"s3://\.\.\. has credentials in an address \(an account before the host\); it"),
        ("s3://bucket/x?secret_key=abc", r"s3://\.\.\. has credentials in an address \(secret_key\); it would be"),
        ("s3://bucket/x?endpoint=abc", "s3://bucket[?]endpoint=abc can't be used: .*; check the address"),
    ],
)
def test_addresses_that_are_refused(text: str, message: str) -> None:
    with pytest.raises(RequestError, match=message) as refusal:
        StoragePath.of(text).exists()
    assert "abc" not in str(refusal.value) or "endpoint=abc" in text
    assert "key:" not in str(refusal.value)


def test_the_name_of_an_object_is_no_query(bucket: StoragePath) -> None:
    server = str(bucket).split("?")[1]
    for name in ("scan?v=2.png", "x?endpoint_override=127.0.0.1:1", "what?", "a/b?c=d/e.png"):
        write_text_atomically(bucket / name, name)
        assert (bucket / name).read_bytes() == name.encode()
        assert str(bucket / name).endswith(f"?{server}")
    assert "x?endpoint_override=127.0.0.1:1" in bucket.files()
    place = StoragePath("s3://b")
    for name in ("scan?v=2.png", "x?endpoint_override=127.0.0.1:1", "what?", "y??"):
        inner = place / name
        assert (inner.path, inner.name, inner.parent) == (f"b/{name}", name, place)
        assert StoragePath.of(str(inner)) == inner
        assert (inner / "z").path == f"b/{name}/z"
    assert StoragePath.of("s3://b/scan?").path == "b/scan?"


class Faulty:
    """A file system, or a file of it, whose every call fails a number of times before it works."""

    def __init__(self, inner: Any, faults: list[int]) -> None:  # noqa: ANN401
        self._inner, self._faults = inner, faults

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        work = getattr(self._inner, name)
        if name in ("close", "seek", "size", "__exit__"):
            return work

        def call(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401
            if self._faults[0] > 0:
                self._faults[0] -= 1
                raise OSError("connection reset")
            result = work(*arguments, **options)
            return Faulty(result, self._faults) if name == "open_input_file" else result

        return call

    def __enter__(self) -> "Faulty":
        return self

    def __exit__(self, *error: object) -> None:
        self._inner.close()


@pytest.mark.parametrize("faults", [1, len(object_store.PAUSES)])
def test_a_passing_fault_is_waited_out(bucket: StoragePath, faults: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_store, "PAUSES", (0,) * len(object_store.PAUSES))
    write_text_atomically(bucket / "x", "0123456789")
    left = [0]
    monkeypatch.setattr(
        object_store, "bucket_filesystem", lambda root, inner=object_store.bucket_filesystem: Faulty(inner(root), left)
    )
    for work in (
        lambda: (bucket / "x").read_bytes(),
        lambda: (bucket / "x").open().read(),
        lambda: bucket.files(),
        lambda: bucket.children(),
        lambda: (bucket / "x").size(),
        lambda: write_text_atomically(bucket / "x", "0123456789"),
    ):
        left[0] = 0
        expected = work()
        left[0] = faults
        assert work() == expected
        assert left == [0]
        left[0] = len(object_store.PAUSES) + 1
        with pytest.raises(OSError, match="connection reset"):
            work()
    file = (bucket / "x").open(buffer=4)
    assert file.read(4) == b"0123"
    left[0] = faults
    assert file.read(4) == b"4567"


def test_what_stays_is_an_error_of_the_job() -> None:
    with pytest.raises(WorkError, match=r"^no network here$"), faults_end_the_work():
        raise OSError("no network\nhere")
