"""Lock in a bucket without conditional writes: each process writes a claim, and one that lists no other has the lock.

Listings of S3, Google Cloud Storage and Azure are strongly consistent: of two processes, the one that wrote its claim
later lists the other's, so two never see themselves alone. See docs/decisions/object-storage.md.
"""

import random
import re
import time
from collections.abc import Collection, Iterator
from dataclasses import replace
from uuid import uuid4

from pyarrow.fs import FileInfo, FileSelector

from overlay.storage.atomic import write_text_atomically
from overlay.storage.filenames import LOCK_NAME
from overlay.storage.lock_owner import LockOwner, LockRival
from overlay.storage.object_store import retry
from overlay.storage.path import StoragePath

_CONTENTION_SECONDS = 30.0
"""longest time for processes that ask for the lock at the same moment to agree"""


class BucketLock:
    """Lock of one owner as an object of the folder, ``NAME-TOKEN``.

    How long a rival was silent is the difference of two times of the server: the last change of its object
    (LastModified), and that of the claim which this process has just written.
    """

    def __init__(self, folder: StoragePath, owner: LockOwner, dead_seconds: float, name: str = LOCK_NAME) -> None:
        self._name = name
        self._folder, self._owner, self._dead_seconds = folder, owner, dead_seconds
        self._patience = min(_CONTENTION_SECONDS, dead_seconds / 2)

    def look(self) -> LockRival | None:
        """Return who has the lock, or None; writes nothing.

        Raises:
            OSError: the bucket can't be reached.
        """
        return next((rival for rival in self._rivals(self._list(), now=0) if rival.holds), None)

    def take(self, silent: Collection[str]) -> LockRival | None:
        """Take the lock, and return None; or return who has it.

        ``silent``: tokens of owners whose heartbeat has stopped, and whose lock is taken over.

        Raises:
            OSError: the bucket can't be reached, or refuses to write.
        """
        began = time.monotonic()
        while True:
            if (rival := self.look()) is not None and rival.lives_here:
                return rival
            # A new name: a claim that was withdrawn, or deleted by another process, never comes back.
            self._owner = replace(self._owner, token=uuid4().hex)
            alone, rival = self._contend(silent)
            if alone:
                return None
            self._claim.remove()
            if rival is not None and (rival.holds or time.monotonic() - began > self._patience):
                return rival
            time.sleep(random.uniform(0.05, 0.5))

    def beat(self) -> bool:
        """Renew the lock; return whether this process still has it.

        Raises:
            OSError: the bucket can't be reached.
        """
        if not self._claim.is_file():
            return False
        self._write(holds=True)
        return True

    def release(self) -> None:
        """Delete the lock.

        Raises:
            OSError: the bucket can't be reached.
        """
        self._claim.remove()

    def _contend(self, silent: Collection[str]) -> tuple[bool, LockRival | None]:
        """Write a claim, and return whether it was listed alone; else also the rival to which this process yields.

        Of two processes that ask at the same moment, the one with the smaller token waits until the other yields.
        """
        began = time.monotonic()
        self._write(holds=False)
        while time.monotonic() - began < self._patience:
            listed = self._list()
            if self._claim.name not in listed:  # this process was stopped for so long that another took it for dead
                return False, None
            rivals = self._rivals(listed, now=listed.pop(self._claim.name).mtime_ns)
            living = [rival for rival in rivals if not self._delete_dead(rival, silent)]
            first = min(living, key=lambda rival: (not rival.holds, rival.token), default=None)
            if first is None and time.monotonic() - began < self._patience:
                self._write(holds=True)
                return True, None
            if first is not None and (first.holds or first.token < self._owner.token):
                return False, first
            time.sleep(0.1)
        return False, None

    def _delete_dead(self, rival: LockRival, silent: Collection[str]) -> bool:
        if not rival.is_dead(silent) and rival.silent < self._dead_seconds:
            return False
        (self._folder / f"{self._name}-{rival.token}").remove()
        return True

    def _rivals(self, listed: dict[str, FileInfo], now: int) -> Iterator[LockRival]:
        """Read listed claims; ``now``: time of the server in ns, or 0."""
        for name, info in listed.items():
            try:
                owner = LockOwner.parse((self._folder / name).read_bytes())
            except FileNotFoundError:  # withdrawn, or released, since it was listed
                continue
            silent = max(0.0, (now - info.mtime_ns) / 1e9)
            yield LockRival(owner, name.removeprefix(f"{self._name}-"), sign=str(info.mtime_ns), silent=silent)

    def _list(self) -> dict[str, FileInfo]:
        # pyarrow lists a folder of gs:// without its subfolders only where an object stands for it.
        recursive = self._folder.text.startswith("gs://")
        selector = FileSelector(self._folder.path, allow_not_found=True, recursive=recursive)
        filesystem = self._folder.filesystem
        assert filesystem is not None
        infos: list[FileInfo] = retry(lambda: filesystem.get_file_info(selector))
        claim, below = re.compile(rf"{re.escape(self._name)}-[0-9a-f]{{32}}"), len(self._folder.path) + 1
        return {info.base_name: info for info in infos if info.is_file and claim.fullmatch(info.path[below:])}

    @property
    def _claim(self) -> StoragePath:
        return self._folder / f"{self._name}-{self._owner.token}"

    def _write(self, *, holds: bool) -> None:
        write_text_atomically(self._claim, replace(self._owner, holds=holds).to_bytes().decode())
