"""Transfers between a disk and a bucket."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from overlay.storage import object_store
from overlay.storage.atomic import write_text_atomically
from overlay.storage.path import StoragePath
from overlay.storage.transfer import copy_object, local_copy, scratch_folder, upload_blocks


def test_a_file_on_a_disk_is_its_own_copy(tmp_path: Path) -> None:
    with local_copy(StoragePath.of(tmp_path / "x")) as file:
        assert file == tmp_path / "x"


def test_a_copy_of_an_object_is_there_for_the_block_only(new_bucket: Callable[[], str]) -> None:
    place = StoragePath.of(new_bucket()) / "folder/x.txt"
    write_text_atomically(place, "content")
    with local_copy(place) as file:
        assert (file.name, file.read_text()) == ("x.txt", "content")
    assert not file.exists()
    with pytest.raises(FileNotFoundError), local_copy(place.parent / "y.txt"):
        pass


@pytest.mark.parametrize("where", ["disk", "bucket"])
def test_a_scratch_folder_is_gone_after_the_block(where: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    parent = StoragePath.of(tmp_path if where == "disk" else request.getfixturevalue("new_bucket")())
    write_text_atomically(parent / "other", "")
    with scratch_folder(parent / "new") as folder:
        write_text_atomically(folder / "x", "content")
        assert folder.children() == ["x"]
    assert not folder.exists()
    assert (parent / "other").is_file()


def test_blocks_are_uploaded_in_their_order_and_again_after_a_fault(
    new_bucket: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_store, "PAUSES", (0.0,))
    place, content = StoragePath.of(new_bucket()) / "x", bytes(range(256)) * 2**15
    tries: list[int] = []

    def blocks() -> Iterator[memoryview]:
        tries.append(1)
        yield memoryview(content)[:1000]
        if len(tries) == 1:
            raise OSError("connection reset")
        yield memoryview(content)[1000:]

    upload_blocks(place, blocks)
    assert (len(tries), place.read_bytes()) == (2, content)
    copy_object(place, place.parent / "y")
    assert (place.parent / "y").read_bytes() == content
    with pytest.raises(OSError, match="NO_SUCH_KEY"):
        copy_object(place.parent / "z", place)
