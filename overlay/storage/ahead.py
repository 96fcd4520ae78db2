"""Work ahead in threads of this process: an ordered map with a bound, also for reading many small files."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

READERS = 32
"""files that are read at one time: a bucket answers each request after some tens of milliseconds"""
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@contextmanager
def worker_threads(number: int) -> Iterator[ThreadPoolExecutor]:
    """Context with so many threads; where it ends early, as after an interruption, work that waits is dropped."""
    threads = ThreadPoolExecutor(number)
    try:
        yield threads
    finally:
        threads.shutdown(cancel_futures=True)


def map_ahead(
    threads: ThreadPoolExecutor, function: Callable[[_Item], _Result], items: Iterable[_Item], ahead: int
) -> Iterator[_Result]:
    """Yield the results of a function in the order of its items; threads compute up to ``ahead`` more meanwhile."""
    pending = deque[Future[_Result]]()
    for item in items:
        pending.append(threads.submit(function, item))
        if len(pending) > ahead:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def read_ahead(read: Callable[[_Item], _Result], items: Iterable[_Item]) -> Iterator[_Result]:
    """Yield the results of a function that reads a small file for each item, in order, up to ``READERS`` ahead.

    Raises:
        OSError: a file can't be read.
    """
    with worker_threads(READERS) as threads:
        yield from map_ahead(threads, read, items, ahead=READERS)
