"""Lock file on a disk: created by a hard link, so that exactly one process succeeds, on NFS as well (open(2))."""

import errno
import os
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from overlay.storage.lock_owner import LockOwner, LockRival

_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EACCES}
_TRIES = 100


class DiskLock:
    """Lock of one owner as a file.

    A dead owner's lock is taken over in two steps: first a second file, named by the dead owner's token, is created
    in the same exclusive way, then it is renamed over the lock. Only the process that has created the second file may
    replace the lock, and it looks once more whose lock it is, so two never take over the same one. A process that
    dies in between leaves a second file that is taken over in turn.
    """

    def __init__(self, path: Path, owner: LockOwner) -> None:
        self._path, self._owner = path, owner
        self._made: list[Path] = []

    def look(self) -> LockRival | None:
        """Return who has the lock, or None; writes nothing."""
        return self._look(self._path)

    def take(self, silent: Collection[str]) -> LockRival | None:
        """Take the lock, and return None; or return who has it.

        ``silent``: tokens of owners whose heartbeat has stopped, and whose lock is taken over.

        Raises:
            OSError: the folder or the file can't be created.
        """
        for _ in range(_TRIES):
            self._make_folder()
            with suppress(FileNotFoundError):  # another process, which made the folder, has removed it
                rival = self._take(self._path, silent)
                if rival is None:
                    self._remove_leftovers()
                return rival
        raise OSError(errno.EAGAIN, "the folder is deleted again and again", str(self._path.parent))

    def beat(self) -> bool:
        """Renew the lock, by its time of modification; return whether this process still has it.

        Raises:
            OSError: the file can't be read or changed.
        """
        if not self._is_mine():
            return False
        os.utime(self._path)
        return True

    def release(self) -> None:
        """Delete the lock, and the folders that were made for it, where these are empty."""
        if self._is_mine():
            self._path.unlink(missing_ok=True)
        for folder in self._made:
            with suppress(OSError):  # there are files in it
                folder.rmdir()

    def _take(self, path: Path, silent: Collection[str]) -> LockRival | None:
        while not self._create(path):
            rival = self._look(path)
            if rival is None:
                continue
            if not rival.is_dead(silent):
                return rival
            successor = self._path.with_name(f"{self._path.name}.{rival.token}.tmp")
            if (other := self._take(successor, silent)) is not None:
                return other
            now = self._look(path)
            if now is not None and now.token == rival.token:
                successor.replace(path)
                return None
            successor.unlink(missing_ok=True)
        return None

    def _remove_leftovers(self) -> None:
        """Delete the files of processes that were killed while they asked for the lock; a living one tries again."""
        for file in self._path.parent.iterdir():
            if file.name.startswith(f"{self._path.name}.") and file.name.endswith(".tmp"):
                file.unlink(missing_ok=True)

    def _create(self, path: Path) -> bool:
        """Create a file with this owner's record, unless there is one; return whether it was created."""
        temporary = self._path.with_name(f"{self._path.name}.{uuid4().hex}.tmp")
        try:
            temporary.write_bytes(self._owner.to_bytes())
            os.link(temporary, path)
        except FileExistsError:
            # Over NFS the answer to a link that succeeded may be lost, and the repeated call fails.
            return temporary.stat().st_nlink == 2
        except OSError as error:
            if error.errno not in _NO_LINKS or not temporary.exists():
                raise
            return self._create_exclusively(path)
        finally:
            temporary.unlink(missing_ok=True)
        return True

    def _create_exclusively(self, path: Path) -> bool:
        """Create the file on a file system without hard links."""
        try:
            with path.open("xb") as file:
                file.write(self._owner.to_bytes())
        except FileExistsError:
            return False
        return True

    def _look(self, path: Path) -> LockRival | None:
        try:
            with path.open("rb") as file:  # over NFS, opening asks the server for the times as well
                owner, status = LockOwner.parse(file.read()), os.fstat(file.fileno())
        except (FileNotFoundError, NotADirectoryError):
            return None
        token = owner.token if owner is not None else f"unknown-{status.st_ino}"
        return LockRival(owner, token, sign=str(status.st_mtime_ns))

    def _is_mine(self) -> bool:
        found = self._look(self._path)
        return found is not None and found.token == self._owner.token

    def _make_folder(self) -> None:
        missing = []
        folder = self._path.parent
        while not folder.exists():
            missing.append(folder)
            folder = folder.parent
        for each in reversed(missing):
            each.mkdir(exist_ok=True)
        self._made = list(dict.fromkeys([*missing, *self._made]))
