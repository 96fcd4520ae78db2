"""Environment of a command where the system lacks a home folder or a user name, as for a container's arbitrary uid.

Ray keeps a token in the home folder, matplotlib, torch and Weights & Biases keep caches and settings there, and all of
them ask for the user's name.
"""

import os
import pwd
import stat
import tempfile
from pathlib import Path

from overlay.config.credentials import check_no_credentials
from overlay.errors import RequestError

_KEPT = {
    "AWS_SHARED_CREDENTIALS_FILE": ".aws/credentials",
    "AWS_CONFIG_FILE": ".aws/config",
    "GOOGLE_APPLICATION_CREDENTIALS": ".config/gcloud/application_default_credentials.json",
    "NETRC": ".netrc",
}
"""variable -> the file that is read in the home folder without it"""


_ADDRESSES = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")
"""addresses that messages repeat"""


def complete_environment() -> None:
    """Set HOME and the user's name where there is none, or HOME can't be written to.

    Raises:
        RequestError: the address of a cluster has credentials, no folder for temporary files can be written to, or that
            of the home has another owner.
    """
    for name in _ADDRESSES:
        check_no_credentials(name, os.environ.get(name))
    if not _has_name():
        for name in ("LOGNAME", "USER"):
            os.environ.setdefault(name, f"uid-{os.getuid()}")
    home = Path(os.environ.get("HOME") or "/")
    if home.is_absolute() and home.is_dir() and os.access(home, os.W_OK | os.X_OK) and home != Path("/"):
        return
    for variable, file in _KEPT.items():
        if os.access(home / file, os.R_OK):
            os.environ.setdefault(variable, str(home / file))
    os.environ["HOME"] = str(_private_folder())


def _has_name() -> bool:
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        return False
    return True


def _private_folder() -> Path:
    """Create this user's folder among the temporary files, or return it; nobody else may have made it."""
    try:
        folder = Path(tempfile.gettempdir(), f"overlay-home-{os.getuid()}")
        folder.mkdir(mode=0o700, exist_ok=True)
        state = folder.lstat()
    except OSError as error:
        raise RequestError(
            f"there is no home folder, and no other can be made ({error}); set HOME, or TMPDIR"
        ) from None
    if not stat.S_ISDIR(state.st_mode) or state.st_uid != os.getuid() or state.st_mode & 0o077:
        raise RequestError(f"{folder} is not this user's alone; set HOME to a folder that can be written to")
    return folder
