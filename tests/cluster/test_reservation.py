"""Reservations on a cluster: what is missing, in words, and when waiting ends."""

from collections.abc import Callable
from unittest.mock import Mock

import pytest

from cluster import session
from cluster.reservation import Reservation, await_resources
from overlay.errors import RequestError, WorkError

GPU = {"CPU": 1.0, "GPU": 1.0}
TWO = Reservation([GPU, GPU, {"CPU": 1.0}])


def node(cpus: float, gpus: float = 0, **others: float) -> dict[str, float]:
    return {"CPU": cpus, "GPU": gpus, **others}


@pytest.mark.parametrize(
    ("nodes", "free", "missing"),
    [
        ([], {}, "0 of 2 GPUs there"),
        ([node(8, 1)], {}, "1 of 2 GPUs there"),
        ([node(1, 2)], {}, "1 of 3 CPUs there"),
        ([node(8), node(0, 2)], {}, "none of the 2 nodes has 1 GPU and 1 CPU"),
        ([node(8, 2)], node(8, 1), "1 of 2 GPUs free of other jobs"),
        ([node(8, 2)], node(2, 2), "2 of 8 CPUs free of other jobs"),
        ([node(8, 2)], node(8, 2), "all there, but not on nodes that have all of it free"),
    ],
)
def test_what_is_missing_is_the_rarest(nodes: list[dict[str, float]], free: dict[str, float], missing: str) -> None:
    assert TWO.missing(nodes, free) == missing


def test_memory_kinds_of_gpus_and_labels_are_named() -> None:
    wanted = Reservation([GPU | {"memory": 2.0**31, "accelerator_type:L4": 0.001}], {"zone": "a"})
    assert wanted.describe() == "1 GPU and 1 CPU and 2 GiB of memory on nodes with zone: a"
    assert wanted.missing([node(8, 8)], {}) == "no node has a GPU of the kind L4"
    small = node(8, 8, memory=2.0**30) | {"accelerator_type:L4": 1.0}
    assert wanted.missing([small], {}) == "1 GiB of memory of 2 GiB of memory there"
    big = small | {"memory": 2.0**32}
    assert wanted.missing([big], big) == "all there, but not on nodes that have all of it free and the labels"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], Mock]:
    """Stands for Ray: the group is placed after so many seconds."""
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")

    def placed_after(seconds: float) -> Mock:
        now = 0.0

        def wait(timeout: float) -> bool:
            nonlocal now
            now += timeout
            return now > seconds

        group = Mock(wait=wait)
        create = Mock(return_value=group)
        remove = Mock()
        monkeypatch.setattr("ray.util.placement_group", create)
        monkeypatch.setattr("ray.util.remove_placement_group", remove)
        monkeypatch.setattr("time.monotonic", lambda: now)
        monkeypatch.setattr(session, "node_resources", lambda: ([node(8, 1)], node(8, 1)))
        return Mock(create=create, remove=remove)

    return placed_after


def test_the_wait_is_reported_and_ends_when_the_nodes_are_there(
    clock: Callable[[float], Mock], capsys: pytest.CaptureFixture[str]
) -> None:
    ray = clock(40)
    await_resources(Reservation([GPU, GPU, {"CPU": 0.0}], {"zone": "a"}, "spread"), wait=600)
    assert capsys.readouterr().err.splitlines() == [
        f"waiting for 2 GPUs and 2 CPUs on nodes with zone: a: 1 of 2 GPUs there, {seconds} s" for seconds in (3, 33)
    ]
    ray.create.assert_called_once_with([GPU, GPU], strategy="SPREAD", bundle_label_selector=[{"zone": "a"}] * 2)
    ray.remove.assert_called_once()


def test_room_that_is_there_is_not_talked_about(
    clock: Callable[[float], Mock], capsys: pytest.CaptureFixture[str]
) -> None:
    clock(0.5)
    await_resources(TWO, wait=0)
    assert capsys.readouterr().err == ""


def test_waiting_ends_with_what_is_missing(clock: Callable[[float], Mock]) -> None:
    ray = clock(1000)
    with pytest.raises(
        WorkError, match="gave up after waiting 60 s for 2 GPUs and 3 CPUs: 1 of 2 GPUs there; the same"
    ):
        await_resources(TWO, wait=60)
    ray.remove.assert_called_once()


def test_without_waiting_the_request_is_refused(
    clock: Callable[[float], Mock], capsys: pytest.CaptureFixture[str]
) -> None:
    clock(1000)
    with pytest.raises(RequestError, match="the cluster has no room for 2 GPUs and 3 CPUs: 1 of 2 GPUs there; ask for"):
        await_resources(TWO, wait=0)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("address", ["", "local", None])
def test_a_local_session_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, address: str | None) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if address is not None:
        monkeypatch.setenv("RAY_ADDRESS", address)
    await_resources(TWO, wait=0)
