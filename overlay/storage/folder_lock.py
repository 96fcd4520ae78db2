"""One owner a folder: a lock with a heartbeat, which ends with the command, or soon after a process that was killed.

A second command is refused while the first one works. On the same machine a process that has ended is noticed at once,
by its id and start time; that of another machine is taken for dead once its heartbeat has not moved for a minute.
Readers take no lock.
"""

import errno
import os
import signal
import sys
import threading
import time
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from overlay.errors import RequestError, WorkError, one_line
from overlay.storage.bucket_lock import BucketLock
from overlay.storage.disk_lock import DiskLock
from overlay.storage.filenames import LOCK_NAME
from overlay.storage.lock_owner import LockOwner, LockRival
from overlay.storage.path import StoragePath

_UNWRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG}
_RENEWABLE = 0.75  # of the time until an owner is dead; the rest is for the renewal itself


@dataclass(frozen=True)
class LockTiming:
    """Times of a lock in seconds."""

    beat: float = 10.0
    """between two heartbeats"""
    dead: float = 60.0
    """without a heartbeat until the owner is taken for dead; it stops itself after three quarters of that"""
    poll: float = 2.0
    """between two looks at another's lock"""


class LockStore(Protocol):
    """Lock of one owner in a storage system."""

    def look(self) -> LockRival | None:
        """Return who has the lock, or None; writes nothing."""

    def take(self, silent: Collection[str]) -> LockRival | None:
        """Take the lock and return None, or return who has it; the locks of ``silent`` owners are taken over."""

    def beat(self) -> bool:
        """Renew the lock; return whether this process still has it."""

    def release(self) -> None:
        """Delete the lock."""


class FolderLock:
    """Lock of an output folder, as a context manager: `take` takes it, and the end of the block releases it.

        with FolderLock(out, "prepare") as lock:
            ...  # read what the request names
            lock.take()
            ...  # look what is in the folder, and write

    Entering the block raises RequestError where a process of this machine has the lock, so that nobody waits for a
    listing first.
    """

    def __init__(self, folder: StoragePath, command: str, timing: LockTiming = LockTiming()) -> None:
        self._folder, self._command, self._timing = folder, command, timing
        self._store = self._open_store(LockOwner.current(command))
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._lost = ""

    def __enter__(self) -> Self:
        rival = self._store.look()
        if rival is not None and rival.lives_here:
            raise self._in_use(rival)
        return self

    def take(self) -> None:
        """Take the lock, or wait until it is known whether its owner is alive; creates the folder.

        Raises:
            RequestError: another process works in the folder, or it can't be written to.
            OSError: the storage failed.
        """
        try:
            self._wait_for_lock()
        except OSError as error:
            if self._folder.in_bucket or error.errno not in _UNWRITABLE:
                raise
            if self._folder.is_file():
                raise RequestError(f"--out {self._folder} is a file; name a folder") from error
            raise RequestError(f"--out {self._folder} can't be written to ({one_line(error)}); name another") from error
        self._thread = threading.Thread(target=self._keep, name="overlay-lock", daemon=True)
        self._thread.start()

    def wait_for_release(self) -> None:
        """Wait while a process of this machine has the lock, for no longer than a silent owner would be waited for.

        The workers of a command that was killed end some seconds after it.
        """
        began = time.monotonic()
        while (rival := self._store.look()) is not None and rival.lives_here:
            if time.monotonic() - began > self._timing.dead:
                return
            time.sleep(self._timing.poll)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread is not None:
            self._ended.set()
            self._thread.join(timeout=self._timing.beat)
            with suppress(OSError):  # without its process it counts as dead before long
                self._store.release()
        if self._lost and isinstance(error, KeyboardInterrupt):
            raise WorkError(self._lost) from None

    def _open_store(self, owner: LockOwner) -> LockStore:
        if self._folder.in_bucket:
            return BucketLock(self._folder, owner, self._timing.dead)
        return DiskLock(Path(self._folder.text, LOCK_NAME), owner)

    def _wait_for_lock(self) -> None:
        """Take the lock as soon as nobody has it.

        Raises:
            RequestError: its owner is a living process of this machine, or its heartbeat moves.
        """
        seen: LockRival | None = None
        began = 0.0
        silent: set[str] = set()
        while (rival := self._store.take(silent)) is not None:
            if rival.lives_here:
                raise self._in_use(rival)
            if seen is None or seen.token != rival.token:
                seen, began = rival, time.monotonic()
                self._say(
                    f"{self._folder} was last used by {rival}; waiting for at most {self._timing.dead:.0f} s to see "
                    "whether that still works"
                )
            elif rival.sign != seen.sign:
                raise self._in_use(rival)
            # The interval is this machine's own; no two clocks are compared.
            elif time.monotonic() - began >= self._timing.dead:
                silent.add(rival.token)
                continue
            time.sleep(self._timing.poll)
        if seen is not None:
            self._say(f"{seen} does not work any more; its place is taken")

    def _keep(self) -> None:
        """Renew the lock until the block ends; interrupt the process where another one has taken it."""
        last = time.monotonic()
        while not self._ended.wait(self._timing.beat):
            reason, silent = "it was taken over or deleted", time.monotonic() - last
            # A process that was stopped for long must not renew a lock that is another's by now.
            held = silent < _RENEWABLE * self._timing.dead
            if not held:
                reason = f"this process could not renew it for {silent:.0f} s"
            try:
                held = held and self._store.beat()
            except OSError as error:
                reason = one_line(error)
                if held:
                    continue
            if not held:
                self._lost = f"the lock of {self._folder} is lost ({reason}); the same command resumes"
                self._say(self._lost)
                # A shell without job control starts a command that runs in the background with SIGINT ignored.
                ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
                os.kill(os.getpid(), signal.SIGTERM if ignored else signal.SIGINT)
                return
            last = time.monotonic()

    def _in_use(self, rival: LockRival) -> RequestError:
        return RequestError(
            f"--out {self._folder} is in use by {rival}; wait until that ends, or stop it, or name another folder"
        )

    def _say(self, text: str) -> None:
        print(f"overlay {self._command}: {text}", file=sys.stderr, flush=True)


class FileLock(FolderLock):
    """Lock of a single output file, which lies beside it."""

    def _open_store(self, owner: LockOwner) -> LockStore:
        name = f"{LOCK_NAME}-{self._folder.name}"
        if self._folder.in_bucket:
            return BucketLock(self._folder.parent, owner, self._timing.dead, name)
        return DiskLock(Path(self._folder.text).with_name(name), owner)
