"""Work ahead in threads of this process: an ordered map with a bound, and batches joined to a size."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar, cast

import numpy as np
from numpy.typing import NDArray

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
_Batch = TypeVar("_Batch", bound=Mapping[str, object])


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


def join_batches(batches: Iterable[_Batch], rows: int) -> Iterator[_Batch]:
    """Join batches that follow each other to such of at least so many rows; the last may have fewer."""
    waiting: list[_Batch] = []
    for batch in batches:
        waiting.append(batch)
        if sum(map(_row_count, waiting)) >= rows:
            yield _join(waiting)
            waiting = []
    if waiting:
        yield _join(waiting)


def _row_count(batch: Mapping[str, object]) -> int:
    return len(cast(NDArray[np.generic], next(iter(batch.values()))))


def _join(batches: list[_Batch]) -> _Batch:
    """Return the rows of batches with the same columns as one batch; a single one as it is."""
    if len(batches) == 1:
        return batches[0]
    columns = {
        name: np.concatenate([cast(NDArray[np.generic], batch[name]) for batch in batches]) for name in batches[0]
    }
    return cast(_Batch, columns)
