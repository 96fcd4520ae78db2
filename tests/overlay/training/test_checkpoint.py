import errno
import os
import resource
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from overlay.training import checkpoint
from overlay.training.checkpoint import CheckpointWriter
from overlay.training.history import Epoch

EPOCH = Epoch(1, 0.5, 0.5, 0.5, 0.5, 0.5, 1e-4, 10.0, 2.0, 0.1)


def last(step: int) -> dict[str, Any]:
    return {"step": step, "network": {"weight": torch.full((2,), float(step))}, "history": [asdict(EPOCH)]}


def best(value: float) -> dict[str, Any]:
    return {"weight": torch.tensor([value])}


def write(checkpoints: Path, step: int, *, improved: bool = True) -> Path:
    writer = CheckpointWriter(checkpoints)
    writer.submit(step, last(step), best(step) if improved else None)
    writer.wait()
    return checkpoints / checkpoint.checkpoint_name(step)


def test_only_the_newest_stays(tmp_path: Path) -> None:
    assert checkpoint.newest_checkpoint(tmp_path) is None
    for step in (9, 10, 1000):
        folder = write(tmp_path, step)
        assert checkpoint.newest_checkpoint(tmp_path) == folder
        assert checkpoint.checkpoint_step(folder) == step
    assert list(tmp_path.iterdir()) == [folder]


def test_names_sort_as_steps_do() -> None:
    names = [checkpoint.checkpoint_name(step) for step in (1, 9, 10, 99, 100, 123456789)]
    assert names == sorted(names)
    assert checkpoint.checkpoint_step(None) == 0


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    folder = write(tmp_path, 5)
    assert sorted(file.name for file in folder.iterdir()) == ["best.pt", "last.pt"]
    assert checkpoint.load_checkpoint(folder, "last.pt")["network"]["weight"].tolist() == [5, 5]
    assert checkpoint.load_checkpoint(folder, "best.pt")["weight"].tolist() == [5]
    assert checkpoint.checkpoint_history(folder) == [EPOCH]
    assert checkpoint.checkpoint_history(None) == []


def test_the_best_weights_outlive_their_checkpoint(tmp_path: Path) -> None:
    first = write(tmp_path, 1)
    inode = (first / "best.pt").stat().st_ino
    second = write(tmp_path, 2, improved=False)
    assert checkpoint.load_checkpoint(second, "best.pt")["weight"].tolist() == [1]
    assert (second / "best.pt").stat().st_ino == inode  # linked, not copied


def test_before_the_first_epoch_there_are_no_best_weights(tmp_path: Path) -> None:
    folder = write(tmp_path, 1, improved=False)
    assert [file.name for file in folder.iterdir()] == ["last.pt"]


def test_what_is_written_is_the_state_of_the_moment_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, may_write = threading.Event(), threading.Event()
    make_folder = tempfile.mkdtemp

    def late(*, prefix: str, dir: Path) -> str:
        began.set()
        may_write.wait(timeout=60)
        return make_folder(prefix=prefix, dir=str(dir))

    monkeypatch.setattr(tempfile, "mkdtemp", late)
    weight = torch.zeros(3)
    told: list[int] = []
    writer = CheckpointWriter(tmp_path)
    writer.submit(1, {"weights": [weight], "history": []}, best={"weight": weight}, then=lambda: told.append(1))
    began.wait(timeout=60)
    weight += 1  # the training goes on
    assert checkpoint.newest_checkpoint(tmp_path) is None
    assert told == []
    may_write.set()
    writer.wait()
    assert told == [1]
    assert checkpoint.load_checkpoint(tmp_path / checkpoint.checkpoint_name(1), "last.pt")["weights"][0].tolist() == [
        0,
        0,
        0,
    ]
    assert checkpoint.load_checkpoint(tmp_path / checkpoint.checkpoint_name(1), "best.pt")["weight"].tolist() == [
        0,
        0,
        0,
    ]


@pytest.fixture
def small_disk() -> Iterator[int]:
    """Let this process write files of some bytes at most; a longer one breaks off there."""
    limits, most = resource.getrlimit(resource.RLIMIT_FSIZE), 2**23
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, limits[1]))
    yield most
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("torn", ["last.pt", "best.pt"])
def test_a_torn_write_is_never_found(torn: str, tmp_path: Path, small_disk: int) -> None:
    kept = write(tmp_path, 1)
    large = {"more": torch.zeros(small_disk)}
    writer = CheckpointWriter(tmp_path)
    writer.submit(2, last(2) | (large if torn == "last.pt" else {}), best(2) | (large if torn == "best.pt" else {}))
    with pytest.raises(OSError, match="File too large"):
        writer.submit(3, last(3), best(3))
    partial = list(tmp_path.glob("partial-*"))
    assert [(folder / torn).stat().st_size for folder in partial] == [small_disk]
    assert checkpoint.newest_checkpoint(tmp_path) == kept
    checkpoint.remove_partial_checkpoints(tmp_path)
    assert list(tmp_path.iterdir()) == [kept]


@pytest.mark.parametrize("around_the_cache", [True, False])
def test_contents_of_any_length_are_written_whole(
    around_the_cache: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_file, refused = os.open, list[object]()

    def without(path: Path, flags: int, mode: int = 0o777, **more: Any) -> int:  # noqa: ANN401
        if flags & os.O_DIRECT:
            refused.append(path)
            raise OSError(errno.EINVAL, "Invalid argument")
        return open_file(path, flags, mode, **more)

    if not around_the_cache:
        monkeypatch.setattr(os, "open", without)
    writer = CheckpointWriter(tmp_path)
    for step, elements in enumerate([0, 1, 1000, 10**6, 3 * 10**6, 10**5], start=1):  # the memory is used again
        values = torch.rand(elements)
        writer.submit(step, {"values": values}, {"values": values + 1})
        writer.wait()
        folder = tmp_path / checkpoint.checkpoint_name(step)
        assert torch.equal(checkpoint.load_checkpoint(folder, "last.pt")["values"], values)
        assert torch.equal(checkpoint.load_checkpoint(folder, "best.pt")["values"], values + 1)
    assert bool(refused) != around_the_cache


def test_clearing_leaves_the_newest_alone(tmp_path: Path) -> None:
    kept = write(tmp_path, 3)
    for other in ("step-000000001", "step-000000002", "ray"):
        os.makedirs(tmp_path / other / "inside")  # noqa: PTH103
    checkpoint.remove_partial_checkpoints(tmp_path)
    assert list(tmp_path.iterdir()) == [kept]
