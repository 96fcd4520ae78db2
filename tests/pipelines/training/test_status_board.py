from concurrent.futures import ThreadPoolExecutor
from typing import cast

import pytest

from overlay.training.history import Epoch
from pipelines.training.status_board import RunImageRefs, StatusBoard, TrainingStatus

EPOCH = Epoch(1, 0.5, 0.5, 0.5, 0.5, 0.5, 1e-4, 10.0, 2.0, 0.1, 5.0, None, 0.25)


def test_the_status_is_what_was_posted_last() -> None:
    board = StatusBoard()
    assert board.read() == TrainingStatus()
    board.post_progress(3, 0.5, workers=2)
    board.post_progress(4, None, workers=1)
    board.post_epochs([EPOCH])
    board.post_memory(200)
    board.post_memory(100)
    board.post_saved_step(4)
    board.abort("too small")
    assert board.read() == TrainingStatus(4, None, 1, (EPOCH,), 200, 4, "too small")


def test_a_post_is_answered_by_whether_to_stop() -> None:
    board = StatusBoard()
    assert not board.post_progress(1, None, workers=1)
    board.request_stop()
    assert board.post_progress(2, None, workers=1)


@pytest.mark.parametrize("ended", [False, True])
def test_workers_wait_for_the_images_or_the_end_of_the_run(ended: bool) -> None:
    board, images = StatusBoard(), cast(RunImageRefs, ("train", "validation"))
    with ThreadPoolExecutor() as threads:
        answer = threads.submit(board.await_images)
        with pytest.raises(TimeoutError):
            answer.result(timeout=0.2)
        if ended:
            board.abort("no image can be decoded")
        else:
            board.give_images(images)
        assert answer.result() == (None if ended else images)
    assert board.read().images_given is not ended
    assert board.await_images() == (None if ended else images)
