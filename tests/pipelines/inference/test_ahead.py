import threading
from collections.abc import Iterator

import numpy as np
import pytest

from pipelines.inference.ahead import join_batches, map_ahead, worker_threads


def test_results_come_in_the_order_of_the_items() -> None:
    later = threading.Event()

    def work(item: int) -> int:
        if item == 0:
            later.wait()  # until the second is done
        else:
            later.set()
        return item * item

    with worker_threads(2) as threads:
        assert list(map_ahead(threads, work, range(10), ahead=2)) == [item * item for item in range(10)]


def test_items_are_taken_no_further_ahead_than_asked() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for item in range(10):
            taken.append(item)
            yield item

    with worker_threads(1) as threads:
        results = map_ahead(threads, str, items(), ahead=1)
        assert next(results) == "0"
        assert taken == [0, 1]
        assert next(results) == "1"
        assert taken == [0, 1, 2]


def test_an_error_comes_in_its_place_and_drops_what_waits() -> None:
    done: list[int] = []

    def work(item: int) -> int:
        if item == 1:
            raise ValueError("no")
        done.append(item)
        return item

    found: list[int] = []
    with pytest.raises(ValueError, match="no"), worker_threads(1) as threads:
        found.extend(map_ahead(threads, work, range(100), ahead=2))
    assert (found, max(done)) == ([], 3) or (found, max(done)) == ([0], 3)


def test_batches_are_joined_to_a_size() -> None:
    batches = [{"row": np.arange(n), "text": np.array([str(n)] * n)} for n in (2, 1, 4, 1, 1)]
    joined = list(join_batches(batches, rows=3))
    assert [batch["row"].tolist() for batch in joined] == [[0, 1, 0], [0, 1, 2, 3], [0, 0]]
    assert [batch["text"].tolist() for batch in joined] == [["2", "2", "1"], ["4"] * 4, ["1", "1"]]
    assert joined[1] is batches[2]
    assert list(join_batches([], rows=3)) == []
