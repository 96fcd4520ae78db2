"""SIGINT and SIGTERM in every verb: the command ends within seconds, whatever it waits for, with status 130 or 143.

The handler raises `Interrupted` in the main thread. Where that is blocked in a call that does not return, such as a
read from a storage that hangs, no handler of Python runs; so a thread reads the numbers of the signals from a pipe,
into which Python's own handler in C writes them (`signal.set_wakeup_fd`), and ends the process when its time is up.

An exception in a callback whose caller can't raise, such as a fork's, is lost (`sys.unraisablehook`), and Python prints
its traceback. A hook sends the signal again instead, to where it can be raised.
"""

import atexit
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType, TracebackType
from typing import NoReturn

from overlay.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM)
GRACE_SECONDS = 10.0
"""from a signal to the end of the process, unless the work asks for more by `Interrupted.give_time`"""
SAME_SECONDS = 1.0
"""signals within this time count as one: `timeout` and batch systems send one to the process and one to its group"""


_READ_SECONDS = 0.05
"""the thread needs less to read a signal that came just before"""


def run_to_exit(work: Callable[[], int]) -> NoReturn:
    """Exit with the status of the work, whatever comes after it: signals, and what libraries do as they are freed.

    A signal ends the process at once. Where all functions of `atexit` have run, the process ends without the rest of
    the interpreter's exit: a Ray that was interrupted in its start aborts there.
    """
    taken = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    statuses: list[int] = []
    atexit.register(_end_process, statuses)  # registered first, and so called last
    status = work()
    statuses.append(status)
    for number in taken:
        signal.signal(number, lambda *_: os._exit(status))
    sys.exit(status)


def _end_process(statuses: list[int]) -> None:
    for status in statuses:  # none where the work raised
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):  # a reader that is gone
                stream.flush()
        os._exit(status)


class SignalWatch:
    """Context in which SIGINT and SIGTERM interrupt the main thread; a second signal ends the process at once.

    Signals that the parent process had ignored (nohup) stay ignored. Only in a process's main thread; elsewhere it does
    nothing. After a signal the watch goes on until the process has ended, since that may block, too.
    """

    def __init__(self, who: str) -> None:
        self._who = who
        self.received: int | None = None
        """number of the first signal, also where another handler got it: Ray has its own while it starts"""
        self._raised = False
        self._arrived = self._deadline = 0.0
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "SignalWatch":
        if threading.current_thread() is not threading.main_thread():
            return self
        self._owner, self._stderr = os.getpid(), os.dup(2)
        self._pipe = os.pipe()
        os.set_blocking(self._pipe[1], False)
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._previous[number] = signal.signal(number, self._raise)
        self._unraisable_hook, sys.unraisablehook = sys.unraisablehook, self._send_again
        signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
        os.register_at_fork(after_in_child=self._forget)
        threading.Thread(target=self._watch, name="signals", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if self._previous and self.received is None:
            signal.set_wakeup_fd(-1)
            sys.unraisablehook = self._unraisable_hook
            for number, handler in self._previous.items():
                signal.signal(number, handler)  # type: ignore[arg-type]  # as `signal.signal` returned it
            os.write(self._pipe[1], b"\0")
            self._previous = {}

    def first_signal(self) -> int | None:
        """Return the number of the first signal, where there was one, also of a moment ago; call it when work ended."""
        if self.received is None and self._previous:
            time.sleep(_READ_SECONDS)
        return self.received

    def give_time(self, seconds: float) -> None:
        """Let the process end by itself in so many seconds from now."""
        self._deadline = time.monotonic() + seconds

    def _raise(self, number: int, _: FrameType | None) -> None:
        """Interrupt the main thread at the first signal; `_watch` handles those that follow."""
        if not self._raised:
            self._raised, self.received = True, number
            raise Interrupted(number, self.give_time)

    def _send_again(self, lost: "sys.UnraisableHookArgs") -> None:
        """Send a signal again whose exception was lost in a callback; Ray's handler exits where ours interrupts."""
        if self.received is None or not isinstance(lost.exc_value, Interrupted | SystemExit):
            self._unraisable_hook(lost)
            return
        self._raised = False
        threading.Timer(_READ_SECONDS, os.kill, (os.getpid(), self.received)).start()

    def _watch(self) -> None:
        while True:
            left = min(1.0, max(0.0, self._deadline - time.monotonic())) if self._deadline else None  # it may change
            if not select.select([self._pipe[0]], [], [], left)[0]:
                if time.monotonic() >= self._deadline:
                    self._end()
                continue
            for number in os.read(self._pipe[0], 64):
                if number == 0:  # the watch is over
                    for descriptor in (*self._pipe, self._stderr):
                        os.close(descriptor)
                    return
                if number not in SIGNALS:
                    continue
                if not self._arrived:
                    self.received, self._arrived = number, time.monotonic()
                    if not self._deadline:  # the main thread may have been here before
                        self.give_time(GRACE_SECONDS)
                elif time.monotonic() - self._arrived > SAME_SECONDS:
                    self._end()

    def _end(self) -> None:
        """End the process without waiting for anything; files that are not complete have other names."""
        text = f"{self._who}: interrupted, and ended at once; what was saved stays, and the same command goes on\n"
        os.write(self._stderr, text.encode())
        os._exit(128 + (self.received or 0))

    def _forget(self) -> None:
        """Restore the default in a forked child, which would write into its parent's pipe."""
        if self._previous and os.getpid() != self._owner:
            signal.set_wakeup_fd(-1)
            for number in self._previous:
                signal.signal(number, signal.SIG_DFL)
            self._previous = {}
