import errno
import pickle
import re
from pathlib import Path

import pytest

from overlay.errors import DiskFullError, RequestError
from overlay.storage import disk_space
from overlay.storage.atomic import write_atomically
from overlay.storage.disk_space import allocated_bytes, check_free_space, free_bytes, is_disk_full
from overlay.storage.path import StoragePath

TORCH = RuntimeError("[enforce fail at inline_container.cc:671] . unexpected pos 576 vs 534")


def write_in_part(file: Path, written: int, error: Exception, size: int | None = None) -> None:
    with write_atomically(file, size) as temporary:
        temporary.write_bytes(bytes(written))
        raise error


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left"), OSError(errno.EDQUOT, "quota"), TORCH])
def test_a_full_disk_is_named_with_the_bytes_that_are_missing(error: Exception, tmp_path: Path) -> None:
    with pytest.raises(DiskFullError) as full:
        write_in_part(tmp_path / "a.bin", 400, error, size=1000)
    assert re.fullmatch(
        rf"{tmp_path} is full: 600 bytes are missing for \.a\.bin\.\w+\.tmp, which needs 1000; make room, or ask for "
        "a larger quota",
        str(full.value),
    )
    assert list(tmp_path.iterdir()) == []
    assert str(pickle.loads(pickle.dumps(full.value))) == str(full.value)
    assert is_disk_full(full.value)


def test_without_a_size_the_room_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_space, "free_bytes", lambda _: 5)
    with pytest.raises(DiskFullError, match=r"there was room for 12 bytes of \.a.*, which needs more"):
        write_in_part(tmp_path / "a", 7, OSError(errno.ENOSPC, "No space left"))


@pytest.mark.parametrize("error", [OSError(errno.EIO, "bad"), RuntimeError("other"), ValueError("no")])
def test_other_errors_stay(error: Exception, tmp_path: Path) -> None:
    assert not is_disk_full(error)
    with pytest.raises(type(error), match=re.escape(str(error))):
        write_in_part(tmp_path / "a", 7, error)


def test_what_does_not_fit_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "not" / "there"
    free = free_bytes(folder)
    place = StoragePath.of(folder)
    check_free_space(place, 10**6, "this")
    assert re.fullmatch(r"disk: this needs about 1 MB, and \d+ MB are free\n", capsys.readouterr().out)
    check_free_space(StoragePath("s3://bucket/out"), 2**60, "this")
    with pytest.raises(RequestError, match=rf"^this needs about {2**60} bytes in {folder}, and \d+ are free there \("):
        check_free_space(place, 2**60, "this")
    assert 0 < free < 2**60
    assert not folder.parent.exists()


def test_allocated_bytes_are_those_of_all_files(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").write_bytes(bytes(10))
    (tmp_path / "c").write_bytes(bytes(5))
    assert allocated_bytes(tmp_path) == 15
    assert allocated_bytes(tmp_path / "none") == 0
