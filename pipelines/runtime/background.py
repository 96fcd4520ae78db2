"""Call in a background thread, for which the main thread can wait and be interrupted."""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

_Result = TypeVar("_Result")

_WAIT_SECONDS = 0.5
"""a wait without an end would keep the main thread from running handlers of signals on some systems"""


class BackgroundCall(Generic[_Result]):
    """Call of a function in a daemon thread of its own, which does not keep the process from ending."""

    def __init__(self, function: Callable[[], _Result]) -> None:
        self._function = function
        self._results: list[_Result] = []
        self._error: BaseException | None = None
        # Not Thread.join: interrupted, it takes the thread for one that has ended (Python 3.11).
        self._ended = threading.Event()
        threading.Thread(target=self._run, name="background-call", daemon=True).start()

    def wait(self) -> _Result:
        """Wait for the end of the call, and return its result or raise its error."""
        while not self._ended.wait(_WAIT_SECONDS):
            pass
        if self._error is not None:
            raise self._error
        return self._results[0]

    def _run(self) -> None:
        try:
            self._results.append(self._function())
        except BaseException as error:
            self._error = error
        finally:
            self._ended.set()
