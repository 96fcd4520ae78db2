import errno
import os
import resource
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from overlay.config import EarlyStopping
from overlay.errors import DiskFullError
from overlay.models.device_copy import CopyStream
from overlay.models.network import StateDict
from overlay.storage.atomic import write_text_atomically
from overlay.storage.path import StoragePath
from overlay.training import checkpoint
from overlay.training.checkpoint import CheckpointState, CheckpointWriter, TrainingProgress
from overlay.training.history import Epoch
from overlay.training.learner import LearnerState
from overlay.training.sampler import SamplePlan

EPOCH = Epoch(1, 0.5, 0.5, 0.5, 0.5, 0.5, 1e-4, 10.0, 2.0, 0.1, 5.0, None, 0.25)


def last(step: int, weight: Tensor | None = None) -> CheckpointState:
    learner = {"network": {"weight": torch.full((2,), float(step)) if weight is None else weight}}
    totals: Any = {"loss": torch.tensor(0.5, dtype=torch.float64), "confusion": torch.arange(9)}
    return CheckpointState(step, cast(LearnerState, learner), totals, seconds=2.5, history=[EPOCH], learning_rate=0.1)


def best(value: float | Tensor) -> StateDict:
    return OrderedDict(weight=value if isinstance(value, Tensor) else torch.tensor([value]))


def write(checkpoints: StoragePath, step: int, *, improved: bool = True) -> StoragePath:
    writer = CheckpointWriter(checkpoints)
    writer.submit(last(step), best(float(step)) if improved else None)
    writer.wait()
    newest = checkpoint.newest_checkpoint(checkpoints)
    assert newest is not None
    return newest


@pytest.fixture(params=["disk", "bucket"])
def checkpoints(request: pytest.FixtureRequest, tmp_path: Path) -> StoragePath:
    if request.param == "disk":
        return StoragePath.of(tmp_path)
    return StoragePath.of(request.getfixturevalue("new_bucket")()) / "run/checkpoints"


def test_only_the_newest_stays(checkpoints: StoragePath) -> None:
    assert checkpoint.newest_checkpoint(checkpoints) is None
    for step in (9, 10, 1000):
        folder = write(checkpoints, step)
        assert checkpoint.checkpoint_step(folder) == step
    marker = [f"{folder.name}.json"] if checkpoints.in_bucket else []
    assert checkpoints.children() == [folder.name, *marker]


def test_a_belated_writer_removes_nothing_newer(checkpoints: StoragePath) -> None:
    newest = write(checkpoints, 9)
    assert write(checkpoints, 5) == newest
    assert checkpoint.load_best_weights(newest)["weight"].tolist() == [9]


def test_names_sort_as_steps_do() -> None:
    names = [checkpoint.checkpoint_name(step) for step in (1, 9, 10, 99, 100, 123456789)]
    assert names == sorted(names)
    assert checkpoint.checkpoint_step(None) == 0


def test_what_was_written_is_read_back(checkpoints: StoragePath) -> None:
    folder = write(checkpoints, 5)
    assert folder.children() == ["best.pt", "last.pt"]
    state = checkpoint.load_checkpoint(folder)
    assert state.learner["network"]["weight"].tolist() == [5, 5]
    assert (state.step, state.seconds, state.history) == (5, 2.5, [EPOCH])
    assert (state.totals["loss"].item(), state.totals["confusion"].tolist()) == (0.5, list(range(9)))
    assert checkpoint.load_best_weights(folder)["weight"].tolist() == [5]


def test_the_progress_is_that_of_the_newest_checkpoint(checkpoints: StoragePath) -> None:
    assert checkpoint.read_progress(checkpoints) == TrainingProgress(0, [])
    write(checkpoints, 5)
    assert checkpoint.read_progress(checkpoints) == TrainingProgress(5, [EPOCH])


def test_a_training_is_complete_after_its_last_step_or_an_early_stop() -> None:
    plan, worse = SamplePlan(samples=10, batch_size=5, epochs=3, seed=0), replace(EPOCH, epoch=2, val_loss=0.75)
    assert not TrainingProgress(4, [EPOCH, worse]).is_complete(plan, EarlyStopping(patience=2))
    assert TrainingProgress(4, [EPOCH, worse]).is_complete(plan, EarlyStopping(patience=1))
    last = replace(worse, epoch=3)
    assert TrainingProgress(6, [EPOCH, worse, last]).is_complete(plan, EarlyStopping(patience=3))
    assert not TrainingProgress(6, [EPOCH, worse]).is_complete(plan, EarlyStopping(patience=3))  # to be validated


def test_the_best_weights_outlive_their_checkpoint(checkpoints: StoragePath) -> None:
    write(checkpoints, 1)
    second = write(checkpoints, 2, improved=False)
    assert checkpoint.load_best_weights(second)["weight"].tolist() == [1]


def test_the_best_weights_are_linked_on_a_disk(tmp_path: Path) -> None:
    first = write(StoragePath.of(tmp_path), 1)
    inode = Path(first.text, "best.pt").stat().st_ino
    second = write(StoragePath.of(tmp_path), 2, improved=False)
    assert Path(second.text, "best.pt").stat().st_ino == inode


def test_before_the_first_epoch_there_are_no_best_weights(checkpoints: StoragePath) -> None:
    folder = write(checkpoints, 1, improved=False)
    assert folder.children() == ["last.pt"]
    with pytest.raises(FileNotFoundError):
        checkpoint.load_best_weights(folder)
    assert write(checkpoints, 2, improved=False).children() == ["last.pt"]


@pytest.mark.parametrize("copies", [None, CopyStream()])
def test_what_is_written_is_the_state_of_the_moment_it_was_given(
    copies: CopyStream | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, may_write = threading.Event(), threading.Event()
    make_folder = tempfile.mkdtemp

    def late(*, prefix: str, dir: Path) -> str:
        began.set()
        may_write.wait(timeout=60)
        return make_folder(prefix=prefix, dir=str(dir))

    monkeypatch.setattr(tempfile, "mkdtemp", late)
    weight = torch.zeros(3)
    written: list[int] = []
    checkpoints = StoragePath.of(tmp_path)
    writer = CheckpointWriter(checkpoints, copies)
    writer.submit(last(1, weight), best(weight), on_written=lambda: written.append(1))
    began.wait(timeout=60)
    weight += 1  # the training continues
    assert checkpoint.newest_checkpoint(checkpoints) is None
    assert written == []
    may_write.set()
    writer.wait()
    assert written == [1]
    folder = checkpoints / checkpoint.checkpoint_name(1)
    assert checkpoint.load_checkpoint(folder).learner["network"]["weight"].tolist() == [0, 0, 0]
    assert checkpoint.load_best_weights(folder)["weight"].tolist() == [0, 0, 0]


@pytest.fixture
def small_disk() -> Iterator[int]:
    """Let this process write files of some bytes at most; a longer one breaks off there."""
    limits, most = resource.getrlimit(resource.RLIMIT_FSIZE), 2**23
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, limits[1]))
    yield most
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("incomplete", ["last.pt", "best.pt"])
def test_an_incomplete_write_leaves_nothing(incomplete: str, tmp_path: Path, small_disk: int) -> None:
    checkpoints = StoragePath.of(tmp_path)
    kept = write(checkpoints, 1)
    small, large = torch.zeros(2), torch.zeros(small_disk)
    writer = CheckpointWriter(checkpoints)
    writer.submit(
        last(2, large if incomplete == "last.pt" else small), best(large if incomplete == "best.pt" else small)
    )
    with pytest.raises(OSError, match="File too large"):
        writer.submit(last(3), best(3.0))
    assert checkpoints.children() == [kept.name]  # what was written of the other is deleted


def test_a_partial_folder_of_a_killed_process_is_never_found_and_removed(tmp_path: Path) -> None:
    checkpoints = StoragePath.of(tmp_path)
    kept = write(checkpoints, 1)
    (tmp_path / "partial-abc").mkdir()
    (tmp_path / "partial-abc" / "last.pt").write_bytes(b"half")
    assert checkpoint.newest_checkpoint(checkpoints) == kept
    checkpoint.remove_partial_checkpoints(checkpoints)
    assert checkpoints.children() == [kept.name]


@pytest.mark.parametrize("direct", [True, False])
def test_contents_of_any_length_are_written_whole(
    direct: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_file, refused = os.open, list[object]()

    def without(path: Path, flags: int, mode: int = 0o777, **more: Any) -> int:  # noqa: ANN401
        if flags & os.O_DIRECT:
            refused.append(path)
            raise OSError(errno.EINVAL, "Invalid argument")
        return open_file(path, flags, mode, **more)

    if not direct:
        monkeypatch.setattr(os, "open", without)
    write_contents_of_many_lengths(StoragePath.of(tmp_path), [0, 1, 1000, 10**6, 3 * 10**6, 10**5])
    assert bool(refused) != direct


def test_contents_of_any_length_are_copied_whole(tmp_path: Path) -> None:
    write_contents_of_many_lengths(StoragePath.of(tmp_path), [0, 1, 3 * 10**6, 1000], CopyStream())


def test_contents_of_any_length_are_uploaded_whole(new_bucket: Callable[[], str]) -> None:
    write_contents_of_many_lengths(StoragePath.of(new_bucket()), [0, 1, 2 * 10**6, 1000])


def write_contents_of_many_lengths(
    checkpoints: StoragePath, lengths: list[int], copies: CopyStream | None = None
) -> None:
    writer = CheckpointWriter(checkpoints, copies)
    for step, elements in enumerate(lengths, start=1):  # the memory is used again
        values = torch.rand(elements)
        writer.submit(last(step, values), best(values + 1))
        writer.wait()
        folder = checkpoint.newest_checkpoint(checkpoints)
        assert folder is not None
        assert torch.equal(checkpoint.load_checkpoint(folder).learner["network"]["weight"], values)
        assert torch.equal(checkpoint.load_best_weights(folder)["weight"], values + 1)


def test_clearing_leaves_the_newest_alone(checkpoints: StoragePath) -> None:
    kept = write(checkpoints, 3)
    there = checkpoints.children()
    for other in ("step-000000001", "step-000000002", "ray"):
        (checkpoints / other).make_folder()
        write_text_atomically(checkpoints / other / "inside", "")
    strays = [".DS_Store", "._step-000000003", *([] if checkpoints.in_bucket else ["step-000000009 copy"])]
    for stray in strays:
        write_text_atomically(checkpoints / stray, "")
    checkpoint.remove_partial_checkpoints(checkpoints)
    assert checkpoints.children() == sorted([*there, *strays])
    assert checkpoint.newest_checkpoint(checkpoints) == kept


def test_the_state_before_a_validation_is_replaced_by_the_one_after_it(tmp_path: Path) -> None:
    checkpoints = StoragePath.of(tmp_path)
    writer = CheckpointWriter(checkpoints)
    for _ in range(2):
        writer.submit(last(3), None)
        writer.wait()
    assert checkpoints.children() == ["step-000000003-validated"]
    assert checkpoint.checkpoint_step(checkpoint.newest_checkpoint(checkpoints)) == 3
    writer.submit(last(4), None)
    writer.wait()
    assert checkpoints.children() == ["step-000000004"]


def test_a_full_disk_leaves_no_partial_folder_and_is_raised_at_the_next_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    writer = CheckpointWriter(StoragePath.of(tmp_path))
    writer.raise_error()
    monkeypatch.setattr(os, "fsync", fails)
    writer.submit(last(3), None)
    with pytest.raises(DiskFullError, match=rf"^{tmp_path} is full: \d+ bytes are missing for a checkpoint"):
        writer.wait()
    with pytest.raises(DiskFullError):
        writer.raise_error()
    assert list(tmp_path.iterdir()) == []
