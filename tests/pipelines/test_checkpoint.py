import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from overlay.history import Epoch
from pipelines import checkpoint

EPOCH = Epoch(1, 0.5, 0.5, 0.5, 0.5, 0.5, 1e-4, 10.0, 2.0)


def last(step: int) -> dict[str, Any]:
    return {"step": step, "network": {"weight": torch.full((2,), float(step))}, "history": [asdict(EPOCH)]}


def best(value: float) -> dict[str, Any]:
    return {"weight": torch.tensor([value])}


def save(checkpoints: Path, attempt: int, step: int, *, improved: bool = True) -> Path:
    """Write a checkpoint as a worker does, and commit it as Ray Train does."""
    folder = checkpoints / f"attempt-{attempt:04d}"
    folder.mkdir(parents=True, exist_ok=True)
    previous = checkpoint.newest(checkpoints)
    written = checkpoint.write(checkpoints, last(step), best(step) if improved else None, previous)
    committed = checkpoint.commit_into(folder)(written, checkpoint.name(step))
    return Path(committed.path)


def test_the_newest_is_the_one_of_the_most_steps_over_all_attempts(tmp_path: Path) -> None:
    assert checkpoint.newest(tmp_path) is None
    save(tmp_path, attempt=1, step=9)
    furthest = save(tmp_path, attempt=1, step=10)
    save(tmp_path, attempt=2, step=2)
    assert checkpoint.newest(tmp_path) == furthest
    further = save(tmp_path, attempt=2, step=1000)
    assert checkpoint.newest(tmp_path) == further


def test_names_sort_as_steps_do() -> None:
    names = [checkpoint.name(step) for step in (1, 9, 10, 99, 100, 123456789)]
    assert names == sorted(names)


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    folder = save(tmp_path, attempt=1, step=5)
    assert sorted(file.name for file in folder.iterdir()) == ["best.pt", "last.pt"]
    assert checkpoint.load(folder, "last.pt")["network"]["weight"].tolist() == [5, 5]
    assert checkpoint.load(folder, "best.pt")["weight"].tolist() == [5]
    assert checkpoint.history(folder) == [EPOCH]
    assert checkpoint.history(None) == []


def test_a_commit_is_a_rename(tmp_path: Path) -> None:
    attempt = tmp_path / "attempt-0001"
    attempt.mkdir()
    written = checkpoint.write(tmp_path, last(1), best(1), None)
    assert checkpoint.newest(tmp_path) is None  # not before it is committed
    before = {file.name: file.stat().st_ino for file in Path(written.path).iterdir()}
    folder = Path(checkpoint.commit_into(attempt)(written, checkpoint.name(1)).path)
    assert folder == attempt / "step-000000001"
    assert {file.name: file.stat().st_ino for file in folder.iterdir()} == before
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["attempt-0001"]


def test_the_best_weights_are_linked_and_outlive_the_older_checkpoint(tmp_path: Path) -> None:
    first = save(tmp_path, attempt=1, step=1)
    second = save(tmp_path, attempt=1, step=2, improved=False)
    assert os.path.samefile(first / "best.pt", second / "best.pt")  # noqa: PTH121 - of two paths
    (first / "best.pt").unlink()
    assert checkpoint.load(second, "best.pt")["weight"].tolist() == [1]


def test_a_torn_write_is_never_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = save(tmp_path, attempt=1, step=1)

    def torn(content: object, file: Path) -> None:
        file.write_bytes(b"half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", torn)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.write(tmp_path, last(2), best(2), kept)
    assert len(list(tmp_path.glob("partial-*"))) == 1
    assert checkpoint.newest(tmp_path) == kept
    checkpoint.start_attempt(tmp_path)
    assert list(tmp_path.glob("partial-*")) == []


def test_a_new_attempt_keeps_the_newest_checkpoint_only(tmp_path: Path) -> None:
    assert checkpoint.start_attempt(tmp_path).name == "attempt-0001"
    save(tmp_path, attempt=1, step=1)
    save(tmp_path, attempt=2, step=2)
    kept = save(tmp_path, attempt=2, step=3)
    (tmp_path / "attempt-0003").mkdir()  # killed before its first checkpoint
    assert checkpoint.start_attempt(tmp_path).name == "attempt-0004"
    assert checkpoint.newest(tmp_path) == kept
    assert sorted(str(entry.relative_to(tmp_path)) for entry in tmp_path.rglob("*")) == [
        "attempt-0002",
        "attempt-0002/step-000000003",
        "attempt-0002/step-000000003/best.pt",
        "attempt-0002/step-000000003/last.pt",
    ]


def test_attempts_without_a_checkpoint_are_cleared(tmp_path: Path) -> None:
    (tmp_path / "attempt-0001").mkdir()
    assert checkpoint.start_attempt(tmp_path) == tmp_path / "attempt-0002"
    assert list(tmp_path.iterdir()) == []
