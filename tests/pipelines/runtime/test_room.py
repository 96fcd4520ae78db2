"""Room for a verb: what is reserved on a cluster, and what a real session says is pending."""

from unittest.mock import Mock

import pytest
import ray

from cluster import pending, reservation, session
from cluster.nodes import NodeSize, Resources
from cluster.pending import describe_pending
from cluster.reservation import Reservation, await_resources
from overlay.config import ClusterOptions, Loop, Train
from overlay.errors import RequestError
from pipelines.runtime import room
from pipelines.runtime.room import await_actors, await_tasks, await_workers


def test_a_task_that_no_node_has_room_for_is_pending(ray_session: None) -> None:
    waiting = ray.remote(num_cpus=0, resources={"lesion": 1.0}, max_retries=0)(lambda: None).remote()
    try:
        for _ in range(300):  # the node tells the head about once a second
            if "pending" in (text := describe_pending() or ""):
                break
            ray.wait([waiting], timeout=0.1)
        assert "1 task or actor of resources of their own (none of the 1 nodes has them)" in text
    finally:
        ray.cancel(waiting)


def test_a_head_that_does_not_answer_is_the_news(ray_session: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pending, "_pending_requests", Mock(side_effect=RuntimeError("no\nconnection")))
    assert describe_pending() == "the head of the cluster does not answer: no connection"


def test_room_that_is_there_is_reserved_and_given_back(ray_session: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    for _ in range(3):
        await_resources(Reservation([{"CPU": 1.0}]), wait=0)
    monkeypatch.setattr(reservation, "AT_ONCE", 0.5)
    with pytest.raises(RequestError, match="no room for 1000 GPUs and 1 CPU: 0 of 1000 GPUs there"):
        await_resources(Reservation([{"CPU": 1.0, "GPU": 1000.0}]), wait=0)


@pytest.fixture
def reserved(monkeypatch: pytest.MonkeyPatch) -> Mock:
    """Stands for the reservation."""
    await_resources = Mock()
    monkeypatch.setattr(room, "await_resources", await_resources)
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    return await_resources


def bundles(reserved: Mock, task: float = 1.0) -> list[dict[str, float]]:
    (asked, wait), _ = reserved.call_args
    assert wait == 600
    assert asked.bundles[-1] == {"CPU": task}
    return list(asked.bundles[:-1])


HALVES = ClusterOptions(gpus_per_worker=0.5, worker_cpus=2)


@pytest.mark.parametrize(
    ("loop", "options", "there", "expected"),
    [
        (Loop(workers=2), ClusterOptions(), Resources(()), [{"CPU": 0.5}] * 2),
        (Loop(workers=2, device="cuda"), ClusterOptions(), Resources(()), [{"CPU": 0.5, "GPU": 1.0}] * 2),
        (Loop(workers="2..4"), ClusterOptions(), Resources((NodeSize(16, 2),)), [{"CPU": 1.0, "GPU": 1.0}] * 2),
        (Loop(workers=1), HALVES, Resources((NodeSize(16, 2),)), [{"CPU": 2, "GPU": 0.5}]),
        (Loop(workers=1), ClusterOptions(memory=1), Resources((NodeSize(16),)), [{"CPU": 1.0, "memory": 2.0**30}]),
    ],
)
def test_the_least_workers_are_reserved(
    reserved: Mock,
    monkeypatch: pytest.MonkeyPatch,
    loop: Loop,
    options: ClusterOptions,
    there: Resources,
    expected: list[dict[str, float]],
) -> None:
    monkeypatch.setattr(session, "resources", lambda: there)
    await_workers(loop, options)
    assert bundles(reserved) == expected


def test_actors_and_tasks_are_reserved(reserved: Mock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "resources", lambda: Resources(()))
    await_actors("cuda", 2, ClusterOptions(accelerator_type="L4"))
    assert bundles(reserved) == [{"CPU": 0.25, "GPU": 1.0, "accelerator_type:L4": 0.001}] * 2
    await_actors("auto", None, ClusterOptions())
    assert bundles(reserved) == [{"CPU": 0.5}]
    monkeypatch.setattr(session, "resources", lambda: Resources((NodeSize(1),)))
    await_actors("auto", None, ClusterOptions())
    assert bundles(reserved, task=0.75) == [{"CPU": 0.25}]
    await_tasks(ClusterOptions(node_labels={"zone": "a"}))
    assert bundles(reserved) == []


def test_a_local_session_reserves_nothing(reserved: Mock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS")
    await_workers(Loop(workers=9), ClusterOptions())
    await_actors("cuda", 2, ClusterOptions())
    reserved.assert_not_called()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"wait": -1.0}, "cluster.wait is -1.0; it must be at least 0 seconds"),
        ({"worker_cpus": 0.0}, "cluster.worker_cpus is 0.0; it must be above 0"),
        ({"memory": -2.0}, "cluster.memory is -2.0; it must be above 0"),
        ({"gpus_per_worker": 0.0}, "cluster.gpus_per_worker is 0.0; give a fraction"),
        ({"gpus_per_worker": 1.5}, "cluster.gpus_per_worker is 1.5; give a fraction"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, float], reason: str) -> None:
    with pytest.raises(RequestError, match=f"^{reason}"):
        ClusterOptions(**options)  # type: ignore[arg-type]


def test_a_batch_size_that_fills_a_gpu_is_not_for_shared_ones() -> None:
    with pytest.raises(
        RequestError, match=r"train.batch_size is auto and cluster.gpus_per_worker is 0.5; auto fills a"
    ):
        Train("/d", "/r", train=Loop(batch_size="auto"), cluster=ClusterOptions(gpus_per_worker=0.5))
