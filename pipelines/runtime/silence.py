"""Silence of a job: without a result for 30 seconds, a line on what is pending on the cluster and what is missing."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cluster.pending import describe_pending
from pipelines.runtime.command_log import print_progress

QUIET_SECONDS = 30.0
"""seconds without a result, before the first line"""
_WATCH_SECONDS = 1.0
_JOIN_SECONDS = 2.0
"""longest wait for the thread at the end, which may be asking a head that does not answer"""


class SilenceWatch:
    """Time since the last result, and the lines about it, after 30, 60, 120, ... seconds.

    ``last`` is the time of the last result, or of the begin, on the monotonic clock.
    """

    def __init__(
        self, description: str, lacking: str = "result", print_line: Callable[[str], None] = print_progress
    ) -> None:
        self._description, self._lacking, self._print_line = description, lacking, print_line
        self.reset(time.monotonic())

    def reset(self, now: float) -> None:
        """Note a result at this time of the monotonic clock."""
        self.last, self._patience = now, QUIET_SECONDS

    def report(self) -> None:
        """Print a line where it is due."""
        quiet = time.monotonic() - self.last
        if quiet < self._patience:
            return
        self._patience *= 2
        pending = describe_pending()
        line = f"{self._description}: no {self._lacking} for {quiet:.0f} s"
        self._print_line(line + (f"; {pending}" if pending else ""))


@contextmanager
def report_silence(watch: SilenceWatch) -> Iterator[SilenceWatch]:
    """Let a thread report the silence of a watch."""
    ended = threading.Event()

    def follow() -> None:
        while not ended.wait(_WATCH_SECONDS):
            watch.report()

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        ended.set()
        thread.join(_JOIN_SECONDS)
