import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from pipelines.training.batch_stream import TrainingBatch
from pipelines.training.device_batches import iterate_ahead, upload_batches


def batches(number: int) -> Iterator[TrainingBatch]:
    for step in range(number):
        images = np.full((2 + step % 2, 4, 4, 3), step, np.uint8)
        images.flags.writeable = False  # as in Ray's shared memory
        yield TrainingBatch(step, images, np.arange(len(images)) + step)


def test_batches_are_on_the_device_in_their_order() -> None:
    device = torch.device("cpu")
    for uploads in (upload_batches(batches(5), device), iterate_ahead(upload_batches(batches(5), device), 2)):
        found = list(uploads)
        assert [batch.step for batch in found] == list(range(5))
        for batch, expected in zip(found, batches(5), strict=True):
            images, labels = batch.tensors()
            assert (images.dtype, labels.dtype) == (torch.uint8, torch.int64)
            np.testing.assert_array_equal(images.numpy(), expected.images)
            np.testing.assert_array_equal(labels.numpy(), expected.labels)


def test_a_thread_takes_so_many_ahead() -> None:
    taken: list[int] = []
    fourth = threading.Event()

    def items() -> Iterator[int]:
        for item in range(10):
            taken.append(item)
            if item == 3:
                fourth.set()
            yield item

    ahead = iterate_ahead(items(), 3)
    assert next(ahead) == 0
    assert fourth.wait(10)  # while the caller is at the first
    assert taken == [0, 1, 2, 3]
    assert list(ahead) == list(range(1, 10))


def test_an_error_comes_after_the_items_before_it() -> None:
    def items() -> Iterator[int]:
        yield 0
        raise ValueError("no")

    ahead = iterate_ahead(items(), 2)
    assert next(ahead) == 0
    with pytest.raises(ValueError, match="no"):
        next(ahead)


def test_no_items_give_none_and_an_iteration_may_end_early() -> None:
    assert list(iterate_ahead(iter([]), 2)) == []
    ahead = iterate_ahead(iter(range(100)), 2)
    assert next(ahead) == 0
    ahead.close()  # type: ignore[attr-defined]
    assert list(ahead) == []
