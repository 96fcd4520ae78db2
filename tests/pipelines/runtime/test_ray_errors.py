import pytest
from ray.exceptions import OutOfDiskError, RayTaskError, WorkerCrashedError

from overlay.errors import RequestError, WorkError
from pipelines.runtime.ray_errors import explain_ray_error


def failed_with(cause: Exception) -> Exception:
    return RayTaskError("read", "Traceback", cause)  # type: ignore[no-untyped-call]


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (failed_with(OSError("no\nroute")), "no route"),
        (failed_with(WorkError("image a is damaged")), "image a is damaged"),
        (failed_with(RequestError("no such class")), "no such class"),
        (
            failed_with(KeyError("a")),
            "an error of Overlay itself, KeyError: 'a'; please report it",
        ),
        (WorkerCrashedError(), "a worker process died again and again: it crashed, its node was lost, or it took"),
    ],
)
def test_an_error_of_a_task_is_one_line(error: Exception, line: str) -> None:
    assert explain_ray_error(error).startswith(line)
    assert "\n" not in explain_ray_error(error)


def test_a_full_disk_of_ray_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", "/")
    assert explain_ray_error(OutOfDiskError("Local disk is full\nThe object cannot be created")).startswith(
        "the disk of /, where Ray keeps what does not fit into memory, is full: "
    )
