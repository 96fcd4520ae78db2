import errno

import pytest
from ray.exceptions import RayTaskError, WorkerCrashedError

from overlay.errors import DiskFullError, WorkError
from overlay.training.sampler import Worker
from pipelines.training.failures import SAME_FAILURES, fatal_reason
from pipelines.training.status_board import StatusBoard


def in_a_task(cause: Exception) -> Exception:
    return RayTaskError("read", "Traceback ...", cause)  # type: ignore[no-untyped-call]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (TypeError("no\nnumber"), "an error of Overlay itself in a training worker, TypeError: no number"),
        (in_a_task(KeyError("a")), "an error of Overlay itself in a training worker, KeyError: 'a'"),
        (in_a_task(WorkError("image a is damaged")), "image a is damaged"),
        (DiskFullError("/run is full"), "/run is full"),
        (OSError(errno.EDQUOT, "Quota exceeded"), f"[Errno {errno.EDQUOT}] Quota exceeded"),
        (OSError(errno.EIO, "Input/output error"), None),
        (RuntimeError("Connection closed by peer"), None),
        (WorkerCrashedError(), None),
    ],
)
def test_only_what_would_come_again_is_fatal(error: Exception, reason: str | None) -> None:
    assert fatal_reason(error) == reason


def test_the_same_failure_at_the_same_step_ends_the_run() -> None:
    board = StatusBoard()
    for _ in range(SAME_FAILURES - 1):
        for rank in range(2):
            board.post_failure(Worker(rank, 2), 7, "shape mismatch", "Traceback")
    board.post_failure(Worker(0, 2), 8, "shape mismatch", "Traceback")
    assert not board.is_stop_requested()
    board.post_failure(Worker(1, 2), 7, "shape mismatch", "Traceback")
    assert board.read().fatal_error == "shape mismatch (3 times after step 7)"
    assert board.read().details == "Traceback"
    assert board.post_progress(9, None, workers=2)
