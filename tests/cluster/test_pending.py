"""What is pending on a cluster, in words."""

import sys

import pytest

from cluster.pending import describe_pending, describe_requests

CPU = {"CPU": 1.0}
GPU = {"CPU": 1.0, "GPU": 1.0}


def test_pending_requests_are_named_with_what_is_missing() -> None:
    nodes = [{"CPU": 2.0}, {"CPU": 2.0}]
    assert describe_requests([(3, CPU), (1, {"CPU": 4.0})], [[GPU, GPU]], nodes, {"CPU": 0.5}) == (
        "pending: 3 tasks or actors of 1 CPU (0.5 of 4 CPUs free of other jobs), "
        "1 task or actor of 4 CPUs (none of the 2 nodes has 4 CPUs), "
        "workers of 2 GPUs and 2 CPUs (0 of 2 GPUs there)"
    )


def test_many_kinds_are_counted() -> None:
    single = [(1, {"CPU": float(cpus)}) for cpus in range(1, 6)]
    assert describe_requests(single, [], [], {}).endswith(", and 2 more")


def test_resources_of_other_kinds_have_no_amount() -> None:
    text = describe_requests([(1, {"disk": 1.0})], [], [{"CPU": 1.0}], {"CPU": 1.0})
    assert text == "pending: 1 task or actor of resources of their own (none of the 1 nodes has them)"


def test_where_nothing_waits_the_work_takes_that_long() -> None:
    assert describe_requests([], [], [CPU], CPU) == "nothing waits for resources; what runs takes that long"


def test_without_ray_there_is_nothing_to_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    assert describe_pending() is None
