"""Checkpoints of a training run: atomic, written asynchronously while the training continues.

A checkpoint is a folder ``step-NNNNNNNNN`` with two files: ``last.pt``, the state from which the run resumes after so
many steps, and ``best.pt``, the state_dict of the best epoch so far. It is written under another name and renamed once
it is complete and on the disk, so whichever process dies at whichever moment, the newest folder is complete. In a
bucket, where nothing can be renamed, a marker object comes last (`overlay.training.bucket_checkpoint`). Ray Train's own
index of checkpoints is rewritten in place, where a kill can leave it incomplete, and so is not used.
"""

import mmap
import os
import re
import shutil
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.serialization import config

from overlay.config import EarlyStopping
from overlay.errors import DiskFullError
from overlay.models.device_copy import CopyStream
from overlay.models.network import StateDict
from overlay.storage.atomic import sync
from overlay.storage.disk_space import allocated_bytes, is_disk_full
from overlay.storage.path import StoragePath
from overlay.storage.transfer import DOWNLOAD_BYTES
from overlay.training.bucket_checkpoint import complete_in_bucket, publish_checkpoint, read_marker, remove_others
from overlay.training.epoch_metrics import EpochTotals
from overlay.training.history import Epoch, should_stop
from overlay.training.host_copy import HostCopies, StateCopy
from overlay.training.learner import LearnerState
from overlay.training.sampler import SamplePlan

BLOCK_BYTES = 2**22
"""of memory, allocated and written at one time; a multiple of every page's size"""

_PARTIAL, _LAST, _BEST = "partial-", "last.pt", "best.pt"
_VALIDATED = "-validated"
"""added to the name where the folder of the step has the state before the epoch's validation"""
_NAME = re.compile(rf"step-\d{{9,}}(?:{_VALIDATED})?")


@dataclass(frozen=True)
class CheckpointState:
    """Training state after a step: the content of ``last.pt``."""

    step: int
    """steps of the run that are done"""
    learner: LearnerState
    totals: EpochTotals
    """metrics of the epoch so far, over all workers"""
    seconds: float
    """time spent in the epoch so far"""
    history: list[Epoch]
    learning_rate: float
    """of the head, in the last step"""


@dataclass(frozen=True)
class TrainingProgress:
    """Steps and epochs of a run that are done, as its newest checkpoint holds them; step 0 without one."""

    step: int
    """steps of the run that are done"""
    history: list[Epoch]
    """epochs that are done"""

    def is_complete(self, plan: SamplePlan, config: EarlyStopping) -> bool:
        """Whether the training has ended: all epochs of the plan are validated, or early stopping ended it."""
        return len(self.history) >= plan.epochs or should_stop(self.history, config)


def newest_checkpoint(checkpoints: StoragePath) -> StoragePath | None:
    """Return the folder of the newest complete checkpoint; None where there is none."""
    if checkpoints.in_bucket:
        complete = complete_in_bucket(checkpoints)
    else:
        complete = [name for name in checkpoints.children() if _NAME.fullmatch(name)]
    return checkpoints / complete[-1] if complete else None


def remove_partial_checkpoints(checkpoints: StoragePath) -> None:
    """Remove all but the newest complete checkpoint; for the driver, while no worker runs."""
    keep = newest_checkpoint(checkpoints)
    if checkpoints.in_bucket:
        remove_others(checkpoints, keep)
        return
    for name in checkpoints.children():
        # A desktop leaves files there, such as .DS_Store.
        if (keep is None or name != keep.name) and (checkpoints / name).is_folder():
            (checkpoints / name).remove()


def checkpoint_name(step: int) -> str:
    """Return the name of the checkpoint after so many steps; names sort as the steps do."""
    return f"step-{step:09d}"


def checkpoint_step(folder: StoragePath | None) -> int:
    """Return after how many steps a checkpoint was written; 0 without one."""
    return 0 if folder is None else int(folder.name.split("-")[1])


def read_progress(checkpoints: StoragePath) -> TrainingProgress:
    """Return the progress that the newest checkpoint holds."""
    newest = newest_checkpoint(checkpoints)
    if newest is None:
        return TrainingProgress(0, [])
    history = read_marker(newest) if newest.in_bucket else load_checkpoint(newest).history
    return TrainingProgress(checkpoint_step(newest), history)


def load_checkpoint(folder: StoragePath, *, mmap: bool = True) -> CheckpointState:
    """Read a checkpoint's training state, tensors on the CPU.

    With ``mmap``, tensors on a disk are read once they are used, so the file stays open for as long as one of them
    lives.
    """
    content = _load(folder / _LAST, mmap=mmap)
    return CheckpointState(**content | {"history": [Epoch(**row) for row in content["history"]]})


def load_best_weights(folder: StoragePath) -> StateDict:
    """Read a checkpoint's state_dict of the best epoch, tensors on the CPU; from a disk it is memory-mapped.

    Raises:
        FileNotFoundError: the checkpoint was written in the first epoch.
    """
    return OrderedDict(_load(folder / _BEST, mmap=True))


def _load(file: StoragePath, *, mmap: bool) -> dict[str, Any]:
    if not file.in_bucket:
        return dict(torch.load(file.text, map_location="cpu", weights_only=True, mmap=mmap))
    with file.open(DOWNLOAD_BYTES) as opened:
        return dict(torch.load(opened, map_location="cpu", weights_only=True))


class CheckpointWriter:
    """Asynchronous writer of checkpoints, in a thread of its own; the training waits for copies in memory only.

    On a CPU the copy is the serialised state. A GPU's training only queues the copies of its tensors, which the device
    makes after the step; the thread serialises them.
    """

    def __init__(self, checkpoints: StoragePath, copies_of: CopyStream | None = None) -> None:
        """``copies_of``: the stream of a GPU's copies; None on a CPU."""
        self._checkpoints = checkpoints
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._pending: Future[None] | None = None
        self._last = _Content(copies_of)
        self._best = _Content(copies_of)

    def submit(
        self, state: CheckpointState, best: StateDict | None, on_written: Callable[[], None] | None = None
    ) -> None:
        """Copy a checkpoint's content and queue its writing; ``on_written`` is called in the thread once it is stored.

        ``best`` is the state_dict of the best epoch, or None where that is still the one of the checkpoint before.

        Raises:
            OSError: the checkpoint before could not be written.
        """
        self.wait()
        fields = {name: getattr(state, name) for name in ("step", "learner", "totals", "seconds", "learning_rate")}
        self._last.take(fields | {"history": [asdict(epoch) for epoch in state.history]})
        if best is not None:
            self._best.take(best)
        self._pending = self._thread.submit(self._write, state, best is not None, on_written)

    def wait(self) -> None:
        """Wait until all submitted checkpoints are on the disk.

        Raises:
            OSError: one could not be written.
        """
        if self._pending is not None:
            self._pending.result()

    def raise_error(self) -> None:
        """Raise the error of a checkpoint that could not be written; else return at once.

        Raises:
            OSError: the last one could not be written.
        """
        if self._pending is not None and self._pending.done():
            self._pending.result()

    def _write(self, state: CheckpointState, improved: bool, on_written: Callable[[], None] | None) -> None:
        self._last.serialise()
        self._best.serialise()
        write = self._write_to_bucket if self._checkpoints.in_bucket else self._write_to_disk
        write(state, improved)
        if on_written is not None:
            on_written()

    def _write_to_disk(self, state: CheckpointState, improved: bool) -> None:
        checkpoints = Path(self._checkpoints.text)
        newest = newest_checkpoint(self._checkpoints)
        previous = None if newest is None else Path(newest.text)
        folder = Path(tempfile.mkdtemp(prefix=_PARTIAL, dir=checkpoints))
        name = self._new_name(state.step, newest)
        try:
            self._last.save(folder / _LAST)
            if improved:
                self._best.save(folder / _BEST)
            elif previous is not None and (previous / _BEST).exists():
                _link(previous / _BEST, folder / _BEST)
            folder.replace(checkpoints / name)
        except OSError as error:
            if is_disk_full(error):
                needed = self._last.size + (self._best.size if improved else 0)
                raise _full_disk(folder, needed) from error
            raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)  # not there once it is renamed
        sync(checkpoints)
        if previous is not None and previous.name < name:  # never one that another worker has written since
            shutil.rmtree(previous, ignore_errors=True)  # over NFS, what somebody has open stays until it is closed

    def _write_to_bucket(self, state: CheckpointState, improved: bool) -> None:
        files = {_LAST: self._last.parts, _BEST: self._best.parts if improved else None}
        name = self._new_name(state.step, newest_checkpoint(self._checkpoints))
        publish_checkpoint(self._checkpoints, name, files, state.history)

    def _new_name(self, step: int, newest: StoragePath | None) -> str:
        """Return the name of a checkpoint; another one after the validation, which was stopped the first time."""
        return checkpoint_name(step) + (_VALIDATED if newest is not None and checkpoint_step(newest) == step else "")


def _full_disk(folder: Path, needed: int) -> DiskFullError:
    missing = needed - allocated_bytes(folder)
    return DiskFullError(
        f"{folder.parent} is full: {missing} bytes are missing for a checkpoint, which needs {needed} beside the one "
        "before; make room"
    )


class _Content:
    """Reused buffer of a file's content: allocating new memory takes longer than filling it."""

    def __init__(self, copies_of: CopyStream | None) -> None:
        self._copies = None if copies_of is None else HostCopies(copies_of)
        self._copy: StateCopy | None = None
        self._blocks: list[NDArray[np.uint8]] = []
        self._length = 0

    @property
    def size(self) -> int:
        """Size of the file in bytes, once it is serialised."""
        return self._length

    def take(self, state: Mapping[str, object]) -> None:
        """Replace the content by a state, which may change once this returns."""
        if self._copies is None:
            self._serialise(state)
        else:
            self._copy = self._copies.copy(state)

    def serialise(self) -> None:
        """Serialise the state that was taken, where that isn't done yet."""
        if self._copy is not None:
            self._serialise(self._copy.wait())
            self._copy = None

    def _serialise(self, state: Mapping[str, object]) -> None:
        """Replace the content by a state's bytes, as `torch.save` writes them."""
        self._length = 0
        # Nothing reads the checksums, and they are most of the work: a second of each epoch of a ResNet101.
        with config.patch("save.compute_crc32", False):  # type: ignore[attr-defined]  # torch puts it there at import
            torch.save(state, self)  # type: ignore[arg-type]  # it needs no more of a file than these two

    def write(self, data: bytes | memoryview) -> int:
        """Append to the content, for `torch.save`."""
        left = np.frombuffer(data, np.uint8)
        while len(left):
            block, start = divmod(self._length, BLOCK_BYTES)
            if block == len(self._blocks):
                memory = mmap.mmap(-1, BLOCK_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
                self._blocks.append(np.frombuffer(memory, np.uint8))
            part, left = left[: BLOCK_BYTES - start], left[BLOCK_BYTES - start :]
            np.copyto(self._blocks[block][start : start + len(part)], part)  # without the interpreter's lock
            self._length += len(part)
        return len(data)

    def flush(self) -> None:
        """Do nothing; `torch.save` calls it."""

    def parts(self) -> Iterator[memoryview]:
        """Yield the content in parts of at most `BLOCK_BYTES`."""
        for start, block in zip(range(0, self._length, BLOCK_BYTES), self._blocks, strict=False):
            yield block[: self._length - start].data

    def save(self, file: Path) -> None:
        """Write the file, and wait until it is on the disk (fsync).

        It bypasses the page cache (O_DIRECT) where the file system can: to allocate half a gigabyte of pages takes a
        second of a core, and nobody reads them soon.
        """
        flags = os.O_WRONLY | os.O_CREAT
        try:
            descriptor = os.open(file, flags | getattr(os, "O_DIRECT", 0), 0o644)  # macOS has none
        except OSError:  # not every file system can
            descriptor = os.open(file, flags, 0o644)
        try:
            for block in self._blocks[: -(-self._length // BLOCK_BYTES)]:  # O_DIRECT takes whole pages only
                with block.data as left:
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
