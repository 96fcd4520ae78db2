"""Checkpoints in a bucket, as killed and belated writers leave them."""

from collections.abc import Callable
from typing import Any

import pytest

from overlay.storage.path import StoragePath
from overlay.training import bucket_checkpoint
from overlay.training.bucket_checkpoint import complete_in_bucket, publish_checkpoint, read_marker
from overlay.training.history import Epoch

EPOCH = Epoch(1, 0.5, 0.5, float("nan"), 0.5, 0.1 + 0.2, 1e-4, 10.0, 2.0, 0.1, 5.0, None, 0.25)


@pytest.fixture
def checkpoints(new_bucket: Callable[[], str]) -> StoragePath:
    return StoragePath.of(new_bucket()) / "checkpoints"


def publish(checkpoints: StoragePath, step: int, content: bytes) -> None:
    publish_checkpoint(checkpoints, f"step-{step:09d}", {"last.pt": lambda: [memoryview(content)]}, [EPOCH])


def test_the_history_is_read_from_the_marker(checkpoints: StoragePath) -> None:
    publish(checkpoints, 5, b"x")
    (name,) = complete_in_bucket(checkpoints)
    (found,) = read_marker(checkpoints / name)
    assert repr(found) == repr(EPOCH)  # which has a NaN in it


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize("moment", ["upload_blocks", "write_text_atomically"])
def test_killed_before_the_marker_the_one_before_stays_the_newest(
    checkpoints: StoragePath, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    publish(checkpoints, 1, b"one")
    with monkeypatch.context() as patch:

        def end(*_: Any) -> None:  # noqa: ANN401
            raise Killed

        patch.setattr(bucket_checkpoint, moment, end)
        with pytest.raises(Killed):
            publish(checkpoints, 2, b"two")
    (name,) = complete_in_bucket(checkpoints)
    assert (checkpoints / name / "last.pt").read_bytes() == b"one"


def test_killed_before_the_older_one_is_removed_the_next_removes_both(
    checkpoints: StoragePath, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(checkpoints, 1, b"one")
    with monkeypatch.context() as patch:
        patch.setattr(StoragePath, "remove", lambda _: None)
        publish(checkpoints, 2, b"two")
    assert [name[:14] for name in complete_in_bucket(checkpoints)] == ["step-000000001", "step-000000002"]
    publish(checkpoints, 3, b"three")
    (name,) = complete_in_bucket(checkpoints)
    assert checkpoints.children() == [name, f"{name}.json"]


def test_a_belated_writer_removes_nothing_newer(checkpoints: StoragePath) -> None:
    publish(checkpoints, 9, b"new")
    publish(checkpoints, 5, b"belated")
    newest = complete_in_bucket(checkpoints)[-1]
    assert (checkpoints / newest / "last.pt").read_bytes() == b"new"


def test_two_writers_of_one_step_do_not_mix(checkpoints: StoragePath) -> None:
    publish(checkpoints, 5, b"a")
    publish(checkpoints, 5, b"b")
    contents = {(checkpoints / name / "last.pt").read_bytes() for name in complete_in_bucket(checkpoints)}
    assert contents == {b"a", b"b"}
