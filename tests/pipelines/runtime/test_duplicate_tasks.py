import numpy as np
import pyarrow as pa
import pytest

from overlay.duplicates.near_duplicates import search_pairs
from overlay.errors import WorkError
from pipelines.runtime.duplicate_tasks import search_in_tasks


def test_tasks_find_the_pairs_that_one_process_finds(ray_session: None) -> None:
    hashes = np.random.default_rng(0).integers(0, 256, (10_600, 32), np.uint8)
    hashes[10_500:] = hashes[:100]
    hashes[10_500:, 7] ^= 0b1011
    phash = pa.chunked_array([pa.array([row.tobytes() for row in hashes], pa.binary(32))])
    pairs, expected = search_in_tasks(phash, 40), search_pairs(phash, 40)
    assert pairs.complete
    assert pairs.first.tolist() == expected.first.tolist() == list(range(100))
    assert pairs.second.tolist() == expected.second.tolist() == list(range(10_500, 10_600))
    assert pairs.distance.tolist() == expected.distance.tolist() == [3] * 100


def test_a_few_hashes_are_searched_by_one_task_whose_failure_is_an_error_of_the_work(ray_session: None) -> None:
    equal = pa.chunked_array([pa.array([bytes(32)] * 2, pa.binary(32))])
    assert search_in_tasks(equal, 0).first.tolist() == [0]
    with pytest.raises(WorkError, match=r"an error of Overlay itself, ArrowInvalid: .* widths must match"):
        search_in_tasks(pa.chunked_array([pa.array([bytes(5)] * 2, pa.binary(5))]), 40)
