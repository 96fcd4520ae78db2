import os
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from overlay.history import Epoch
from pipelines import checkpoint
from pipelines.checkpoint import Writer

EPOCH = Epoch(1, 0.5, 0.5, 0.5, 0.5, 0.5, 1e-4, 10.0, 2.0, 0.1)


def last(step: int) -> dict[str, Any]:
    return {"step": step, "network": {"weight": torch.full((2,), float(step))}, "history": [asdict(EPOCH)]}


def best(value: float) -> dict[str, Any]:
    return {"weight": torch.tensor([value])}


def write(checkpoints: Path, step: int, *, improved: bool = True) -> Path:
    writer = Writer(checkpoints)
    writer.submit(step, last(step), best(step) if improved else None)
    writer.wait()
    return checkpoints / checkpoint.name(step)


def test_only_the_newest_stays(tmp_path: Path) -> None:
    assert checkpoint.newest(tmp_path) is None
    for step in (9, 10, 1000):
        folder = write(tmp_path, step)
        assert checkpoint.newest(tmp_path) == folder
        assert checkpoint.step(folder) == step
    assert list(tmp_path.iterdir()) == [folder]


def test_names_sort_as_steps_do() -> None:
    names = [checkpoint.name(step) for step in (1, 9, 10, 99, 100, 123456789)]
    assert names == sorted(names)
    assert checkpoint.step(None) == 0


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    folder = write(tmp_path, 5)
    assert sorted(file.name for file in folder.iterdir()) == ["best.pt", "last.pt"]
    assert checkpoint.load(folder, "last.pt")["network"]["weight"].tolist() == [5, 5]
    assert checkpoint.load(folder, "best.pt")["weight"].tolist() == [5]
    assert checkpoint.history(folder) == [EPOCH]
    assert checkpoint.history(None) == []


def test_the_best_weights_outlive_their_checkpoint(tmp_path: Path) -> None:
    first = write(tmp_path, 1)
    inode = (first / "best.pt").stat().st_ino
    second = write(tmp_path, 2, improved=False)
    assert checkpoint.load(second, "best.pt")["weight"].tolist() == [1]
    assert (second / "best.pt").stat().st_ino == inode  # linked, not copied


def test_before_the_first_epoch_there_are_no_best_weights(tmp_path: Path) -> None:
    folder = write(tmp_path, 1, improved=False)
    assert [file.name for file in folder.iterdir()] == ["last.pt"]


def test_what_is_written_is_the_state_of_the_moment_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, may_write = threading.Event(), threading.Event()
    save = torch.save

    def late(state: object, file: Path) -> None:
        began.set()
        may_write.wait(timeout=60)
        save(state, file)

    monkeypatch.setattr(torch, "save", late)
    weight = torch.zeros(3)
    told: list[int] = []
    writer = Writer(tmp_path)
    writer.submit(1, {"weights": [weight], "history": []}, best={"weight": weight}, then=lambda: told.append(1))
    began.wait(timeout=60)
    weight += 1  # the training goes on
    assert checkpoint.newest(tmp_path) is None
    assert told == []
    may_write.set()
    writer.wait()
    assert told == [1]
    assert checkpoint.load(tmp_path / checkpoint.name(1), "last.pt")["weights"][0].tolist() == [0, 0, 0]
    assert checkpoint.load(tmp_path / checkpoint.name(1), "best.pt")["weight"].tolist() == [0, 0, 0]


@pytest.mark.parametrize("torn", ["last.pt", "best.pt"])
def test_a_torn_write_is_never_found(torn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = write(tmp_path, 1)
    save = torch.save

    def interrupted(state: object, file: Path) -> None:
        if file.name == torn:
            file.write_bytes(b"half of it")
            raise OSError("no space left")
        save(state, file)

    monkeypatch.setattr(torch, "save", interrupted)
    writer = Writer(tmp_path)
    writer.submit(2, last(2), best(2))
    with pytest.raises(OSError, match="no space left"):
        writer.submit(3, last(3), best(3))
    assert len(list(tmp_path.glob("partial-*"))) == 1
    assert checkpoint.newest(tmp_path) == kept
    checkpoint.clear(tmp_path)
    assert list(tmp_path.iterdir()) == [kept]


def test_clearing_leaves_the_newest_alone(tmp_path: Path) -> None:
    kept = write(tmp_path, 3)
    for other in ("step-000000001", "step-000000002", "ray"):
        os.makedirs(tmp_path / other / "inside")  # noqa: PTH103
    checkpoint.clear(tmp_path)
    assert list(tmp_path.iterdir()) == [kept]
