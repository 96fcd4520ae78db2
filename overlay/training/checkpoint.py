"""Checkpoints of a training run: whole or not there, written while training goes on, found again by the same command.

A checkpoint is a folder ``step-NNNNNNNNN`` with two files: ``last.pt``, all that the run needs to go on after so many
steps, and ``best.pt``, the state_dict of the best epoch so far. It is written under another name and renamed once it is
complete and on the disk, so whichever process dies at whichever moment, the newest folder is a good one. Ray Train's
own index of checkpoints is rewritten in place, where a kill can tear it, and so is not used.
"""

import mmap
import os
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch.utils.serialization import config

from overlay.storage.atomic import sync
from overlay.training.history import Epoch

BLOCK_BYTES = 2**22
"""of memory, which is taken and written at one time; a multiple of every page's size"""

_PARTIAL = "partial-"


def newest_checkpoint(checkpoints: Path) -> Path | None:
    """Return the folder of the newest complete checkpoint."""
    return max(checkpoints.glob("step-*"), key=lambda folder: folder.name, default=None)


def remove_partial_checkpoints(checkpoints: Path) -> None:
    """Remove all but the newest complete checkpoint; for the driver, while no worker runs."""
    keep = newest_checkpoint(checkpoints)
    for folder in checkpoints.iterdir():
        if folder != keep:
            shutil.rmtree(folder)


def checkpoint_name(step: int) -> str:
    """Return the name of the checkpoint after so many steps; names sort as the steps do."""
    return f"step-{step:09d}"


def checkpoint_step(folder: Path | None) -> int:
    """Return after how many steps a checkpoint was written; 0 without one."""
    return 0 if folder is None else int(folder.name.removeprefix("step-"))


def checkpoint_history(folder: Path | None) -> list[Epoch]:
    """Return the epochs that had been done when a checkpoint was written; none without one."""
    return [] if folder is None else [Epoch(**row) for row in load_checkpoint(folder, "last.pt")["history"]]


def load_checkpoint(folder: Path, file: str, *, mmap: bool = True) -> dict[str, Any]:
    """Read one of a checkpoint's two files, tensors to the CPU; with ``mmap`` only once they are looked at, so the file
    stays open for as long as one of them lives.
    """
    content: dict[str, Any] = torch.load(folder / file, map_location="cpu", weights_only=True, mmap=mmap)
    return content


class CheckpointWriter:
    """Writes checkpoints in a thread of its own, one after the other; the training waits for copies in memory only."""

    def __init__(self, checkpoints: Path) -> None:
        self._checkpoints = checkpoints
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._pending: Future[None] | None = None
        self._last = _Content()
        self._best = _Content()

    def submit(
        self, step: int, last: dict[str, Any], best: dict[str, Any] | None, then: Callable[[], None] | None = None
    ) -> None:
        """Have a checkpoint written, after the one before it; ``then`` is called once it is there.

        ``best`` is the state_dict of the best epoch, or None where that is still the one of the checkpoint before.

        Raises:
            OSError: the checkpoint before could not be written.
        """
        self.wait()
        self._last.hold(last)
        if best is not None:
            self._best.hold(best)
        self._pending = self._thread.submit(self._write, step, best is not None, then)

    def wait(self) -> None:
        """Wait until all is written.

        Raises:
            OSError: it could not be.
        """
        if self._pending is not None:
            self._pending.result()

    def _write(self, step: int, improved: bool, then: Callable[[], None] | None) -> None:
        previous = newest_checkpoint(self._checkpoints)
        folder = Path(tempfile.mkdtemp(prefix=_PARTIAL, dir=self._checkpoints))
        self._last.save(folder / "last.pt")
        if improved:
            self._best.save(folder / "best.pt")
        elif previous is not None and (previous / "best.pt").exists():
            _link(previous / "best.pt", folder / "best.pt")
        folder.replace(self._checkpoints / checkpoint_name(step))
        sync(self._checkpoints)
        if previous is not None:
            shutil.rmtree(previous, ignore_errors=True)  # over NFS, what somebody has open stays until it is closed
        if then is not None:
            then()


class _Content:
    """What a file will hold, in memory that is used again: new memory takes longer than filling it."""

    def __init__(self) -> None:
        self._blocks: list[mmap.mmap] = []
        self._length = 0

    def hold(self, state: dict[str, Any]) -> None:
        """Take the state's bytes, as `torch.save` writes them; what was held before is gone."""
        self._length = 0
        # Nothing reads the checksums, and they are most of the work: a second of each epoch of a ResNet101.
        with config.patch("save.compute_crc32", False):  # type: ignore[attr-defined]  # torch puts it there at import
            torch.save(state, self)  # type: ignore[arg-type]  # it needs no more of a file than these two

    def write(self, data: bytes | memoryview) -> int:
        """Hold more."""
        left = memoryview(data)
        while left:
            block, start = divmod(self._length, BLOCK_BYTES)
            if block == len(self._blocks):
                self._blocks.append(mmap.mmap(-1, BLOCK_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
            part, left = left[: BLOCK_BYTES - start], left[BLOCK_BYTES - start :]
            self._blocks[block][start : start + len(part)] = part
            self._length += len(part)
        return len(data)

    def flush(self) -> None:
        """Do nothing, as there is nothing behind."""

    def save(self, file: Path) -> None:
        """Write the file, and wait until it is on the disk.

        The system's cache is passed by where it can be: to find half a gigabyte of pages for it takes a second of a
        core, and nobody reads them soon.
        """
        flags = os.O_WRONLY | os.O_CREAT
        try:
            descriptor = os.open(file, flags | getattr(os, "O_DIRECT", 0), 0o644)  # macOS has none
        except OSError:  # not every file system can
            descriptor = os.open(file, flags, 0o644)
        try:
            for block in self._blocks[: -(-self._length // BLOCK_BYTES)]:  # past the cache, whole pages only
                with memoryview(block) as left:
                    while left:
                        left = left[os.write(descriptor, left) :]
            os.ftruncate(descriptor, self._length)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # shares of Windows and some mounted buckets have no hard links
        shutil.copyfile(source, target)
