import errno
import os
import resource
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from overlay.config import EarlyStopping
from overlay.models.network import StateDict
from overlay.training import checkpoint
from overlay.training.checkpoint import CheckpointState, CheckpointWriter, TrainingProgress
from overlay.training.history import Epoch
from overlay.training.learner import LearnerState
from overlay.training.sampler import SamplePlan

EPOCH = Epoch(1, 0.5, 0.5, 0.5, 0.5, 0.5, 1e-4, 10.0, 2.0, 0.1)


def last(step: int, weight: Tensor | None = None) -> CheckpointState:
    learner = {"network": {"weight": torch.full((2,), float(step)) if weight is None else weight}}
    totals: Any = {"loss": torch.tensor(0.5, dtype=torch.float64), "confusion": torch.arange(9)}
    return CheckpointState(step, cast(LearnerState, learner), totals, seconds=2.5, history=[EPOCH])


def best(value: float | Tensor) -> StateDict:
    return OrderedDict(weight=value if isinstance(value, Tensor) else torch.tensor([value]))


def write(checkpoints: Path, step: int, *, improved: bool = True) -> Path:
    writer = CheckpointWriter(checkpoints)
    writer.submit(last(step), best(float(step)) if improved else None)
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
    state = checkpoint.load_checkpoint(folder)
    assert state.learner["network"]["weight"].tolist() == [5, 5]
    assert (state.step, state.seconds, state.history) == (5, 2.5, [EPOCH])
    assert (state.totals["loss"].item(), state.totals["confusion"].tolist()) == (0.5, list(range(9)))
    assert checkpoint.load_best_weights(folder)["weight"].tolist() == [5]


def test_the_progress_is_that_of_the_newest_checkpoint(tmp_path: Path) -> None:
    assert checkpoint.read_progress(tmp_path) == TrainingProgress(0, [])
    write(tmp_path, 5)
    assert checkpoint.read_progress(tmp_path) == TrainingProgress(5, [EPOCH])


def test_a_training_is_complete_after_its_last_step_or_an_early_stop() -> None:
    plan, worse = SamplePlan(samples=10, batch_size=5, epochs=3, seed=0), replace(EPOCH, epoch=2, val_loss=0.75)
    assert not TrainingProgress(4, [EPOCH, worse]).is_complete(plan, EarlyStopping(patience=2))
    assert TrainingProgress(4, [EPOCH, worse]).is_complete(plan, EarlyStopping(patience=1))
    assert TrainingProgress(6, [EPOCH, worse]).is_complete(plan, EarlyStopping(patience=2))


def test_the_best_weights_outlive_their_checkpoint(tmp_path: Path) -> None:
    first = write(tmp_path, 1)
    inode = (first / "best.pt").stat().st_ino
    second = write(tmp_path, 2, improved=False)
    assert checkpoint.load_best_weights(second)["weight"].tolist() == [1]
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
    written: list[int] = []
    writer = CheckpointWriter(tmp_path)
    writer.submit(last(1, weight), best(weight), on_written=lambda: written.append(1))
    began.wait(timeout=60)
    weight += 1  # the training continues
    assert checkpoint.newest_checkpoint(tmp_path) is None
    assert written == []
    may_write.set()
    writer.wait()
    assert written == [1]
    folder = tmp_path / checkpoint.checkpoint_name(1)
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
def test_an_incomplete_write_is_never_found(incomplete: str, tmp_path: Path, small_disk: int) -> None:
    kept = write(tmp_path, 1)
    small, large = torch.zeros(2), torch.zeros(small_disk)
    writer = CheckpointWriter(tmp_path)
    writer.submit(
        last(2, large if incomplete == "last.pt" else small), best(large if incomplete == "best.pt" else small)
    )
    with pytest.raises(OSError, match="File too large"):
        writer.submit(last(3), best(3.0))
    partial = list(tmp_path.glob("partial-*"))
    assert [(folder / incomplete).stat().st_size for folder in partial] == [small_disk]
    assert checkpoint.newest_checkpoint(tmp_path) == kept
    checkpoint.remove_partial_checkpoints(tmp_path)
    assert list(tmp_path.iterdir()) == [kept]


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
    writer = CheckpointWriter(tmp_path)
    for step, elements in enumerate([0, 1, 1000, 10**6, 3 * 10**6, 10**5], start=1):  # the memory is used again
        values = torch.rand(elements)
        writer.submit(last(step, values), best(values + 1))
        writer.wait()
        folder = tmp_path / checkpoint.checkpoint_name(step)
        assert torch.equal(checkpoint.load_checkpoint(folder).learner["network"]["weight"], values)
        assert torch.equal(checkpoint.load_best_weights(folder)["weight"], values + 1)
    assert bool(refused) != direct


def test_clearing_leaves_the_newest_alone(tmp_path: Path) -> None:
    kept = write(tmp_path, 3)
    for other in ("step-000000001", "step-000000002", "ray"):
        os.makedirs(tmp_path / other / "inside")  # noqa: PTH103
    checkpoint.remove_partial_checkpoints(tmp_path)
    assert list(tmp_path.iterdir()) == [kept]
