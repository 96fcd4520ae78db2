"""Filter of what libraries in C++ write to the standard error of a command: the lines of Ray's core are left out.

Ray's core logs warnings there that mean nothing to a user ("Actor ... has constructor arguments in the object store");
its own log, in Ray's session folder, has them as well. What fails reaches the command as an exception.
"""

import atexit
import faulthandler
import os
import re
import sys
import threading

_RAW = re.compile(rb"(\x1b\[\d+m)*\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d+ [A-Z] \d+ \d+\] ")
"""as in "[2026-11-26 06:46:13,123 W 183 183] actor_manager.cc:90: Actor ..." """
_CONTINUED = re.compile(rb"\s|\*\*\*|$")
"""line of a stack trace, which follows"""


class RawLineFilter:
    """Decides line by line; lines that continue one that is left out are left out, too."""

    def __init__(self) -> None:
        self._dropping = False

    def keeps(self, line: bytes) -> bool:
        """Return whether a line, with its end, is for the user."""
        self._dropping = bool(_RAW.match(line)) or (self._dropping and bool(_CONTINUED.match(line)))
        return not self._dropping


def filter_raw_lines() -> None:
    """Put the filter between descriptor 2 and the standard error until the process ends; `sys.stderr` bypasses it.

    Only where `sys.stderr` is the process's own, and so not in tests.
    """
    standard = sys.__stderr__
    if standard is None or sys.stderr is not standard or standard.fileno() != 2:
        return
    standard.flush()
    own = os.dup(2)
    source, sink = os.pipe()
    os.dup2(sink, 2)
    os.close(sink)
    sys.stderr = sys.__stderr__ = open(own, "w", buffering=1, encoding="utf-8", errors="backslashreplace")  # type: ignore[misc] # noqa: PTH123, SIM115 - for the rest of the process
    faulthandler.enable(sys.stderr)  # what the process itself writes when it crashes, the thread can't pass on
    thread = threading.Thread(target=_pass_on, args=(source, own), name="raw-lines", daemon=True)
    thread.start()
    atexit.register(_restore, own, thread)


def _pass_on(source: int, target: int) -> None:
    wanted = RawLineFilter()
    with open(source, "rb") as lines:
        for line in lines:
            if wanted.keeps(line):
                os.write(target, line)


def _restore(own: int, thread: threading.Thread) -> None:
    """Close the pipe, and wait for what is left in it; another process may hold it open."""
    os.dup2(own, 2)
    thread.join(timeout=0.5)
