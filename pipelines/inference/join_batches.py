"""Batches joined to a size."""

from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar, cast

import numpy as np
from numpy.typing import NDArray

_Batch = TypeVar("_Batch", bound=Mapping[str, object])


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
