"""Checkpoints of a training run: whole or not there, and found again by the same command.

A checkpoint is a folder with two files: ``last.pt``, all that the run needs to go on, and ``best.pt``, the state_dict
of the best epoch so far. Each start of the command is an attempt with a folder of its own, because Ray Train rewrites
its index of checkpoints in place and a kill can tear it; so which checkpoint is the newest is read off the folders'
names, and a folder gets its name only once it is complete.
"""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from ray.train import Checkpoint

from overlay.history import Epoch

_PARTIAL = "partial-"


def newest(checkpoints: Path) -> Path | None:
    """Return the folder of the newest complete checkpoint, over all attempts."""
    return max(checkpoints.glob("attempt-*/step-*"), key=lambda folder: folder.name, default=None)


def start_attempt(checkpoints: Path) -> Path:
    """Return the folder of a new attempt, after clearing away what no later attempt can need."""
    keep = newest(checkpoints)
    attempts = sorted(checkpoints.glob("attempt-*"))
    for folder in attempts:
        if keep is None or folder != keep.parent:
            shutil.rmtree(folder)
    for step in checkpoints.glob("attempt-*/step-*"):
        if step != keep:
            shutil.rmtree(step)
    for partial in checkpoints.glob(f"{_PARTIAL}*"):
        shutil.rmtree(partial)
    number = int(attempts[-1].name.removeprefix("attempt-")) + 1 if attempts else 1
    return checkpoints / f"attempt-{number:04d}"


def name(step: int) -> str:
    """Return the name of the checkpoint after so many steps; names sort as the steps do."""
    return f"step-{step:09d}"


def history(folder: Path | None) -> list[Epoch]:
    """Return the epochs that had been done when a checkpoint was written; none without one."""
    return [] if folder is None else [Epoch(**row) for row in load(folder, "last.pt")["history"]]


def load(folder: Path, file: str, device: torch.device | None = None) -> dict[str, Any]:
    """Read one of a checkpoint's two files; tensors come to ``device``, or to the CPU."""
    content: dict[str, Any] = torch.load(folder / file, map_location=device or "cpu", weights_only=True, mmap=True)
    return content


def write(checkpoints: Path, last: dict[str, Any], best: dict[str, Any] | None, previous: Path | None) -> Checkpoint:
    """Write a checkpoint's files to a partial folder beside its place-to-be.

    ``best`` is the state_dict of the best epoch, or None where that is still the one in ``previous``.
    """
    folder = Path(tempfile.mkdtemp(prefix=_PARTIAL, dir=checkpoints))
    torch.save(last, folder / "last.pt")
    if best is not None:
        torch.save(best, folder / "best.pt")
    else:
        assert previous is not None
        try:
            os.link(previous / "best.pt", folder / "best.pt")
        except OSError:  # shares of Windows and some mounted buckets have no hard links
            shutil.copyfile(previous / "best.pt", folder / "best.pt")
    return Checkpoint(str(folder))


def commit_into(attempt: Path) -> Callable[[Checkpoint, str], Checkpoint]:
    """Return the function by which Ray Train stores a checkpoint: one rename, instead of copying file after file."""

    def commit(checkpoint: Checkpoint, folder: str) -> Checkpoint:
        return Checkpoint(str(Path(checkpoint.path).replace(attempt / folder)))

    return commit
