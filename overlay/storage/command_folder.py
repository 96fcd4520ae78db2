"""Temporary folders of a command; those of commands that were killed are removed by the next one of this machine."""

import os
import platform
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_NAME = re.compile(r"overlay-job-(.+)-(\d+)-\w+")


@contextmanager
def command_folder() -> Iterator[Path]:
    """Yield an empty folder among the temporary files, which is deleted where the block ends."""
    _remove_abandoned(Path(tempfile.gettempdir()))
    with tempfile.TemporaryDirectory(prefix=f"overlay-job-{platform.node()}-{os.getpid()}-") as folder:
        yield Path(folder)


def _remove_abandoned(parent: Path) -> None:
    """Delete folders of this user's processes of this machine that have ended; other machines may share the parent."""
    for folder in parent.glob("overlay-job-*"):
        name = _NAME.fullmatch(folder.name)
        if name and name[1] == platform.node() and not _is_alive(int(name[2])):
            shutil.rmtree(folder, ignore_errors=True)  # another user's is not ours to delete


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
