"""Work ahead in threads of this process: an ordered map with a bound, also for reading many small files."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from overlay.storage.path import StoragePath

BUCKET_READERS = 32
"""files of a bucket that are read at one time: it answers each request after some tens of milliseconds"""
DISK_READERS = 4
"""files of a disk that are read at one time: each thread keeps some memory"""
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


def read_ahead(place: StoragePath, read: Callable[[_Item], _Result], items: Iterable[_Item]) -> Iterator[_Result]:
    """Yield the results of a function that reads a small file of a folder for each item, in order, several ahead.

    Raises:
        OSError: a file can't be read.
    """
    readers = BUCKET_READERS if place.in_bucket else DISK_READERS
    with worker_threads(readers) as threads:
        yield from map_ahead(threads, read, items, ahead=readers)
