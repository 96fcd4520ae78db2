import threading
from collections.abc import Iterator

import pytest

from overlay.storage.ahead import BUCKET_READERS, DISK_READERS, map_ahead, read_ahead, worker_threads
from overlay.storage.path import StoragePath


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


@pytest.mark.parametrize(("place", "readers"), [("s3://bucket/folder", BUCKET_READERS), ("/folder", DISK_READERS)])
def test_files_are_read_at_one_time_and_in_order(place: str, readers: int) -> None:
    together = threading.Barrier(readers, timeout=60)

    def read(item: int) -> int:
        if item < readers:
            together.wait()  # passes only once all of them are read
        return item + 1

    assert list(read_ahead(StoragePath(place), read, range(100))) == list(range(1, 101))
