"""Pool of model actors: its size for the nodes that are there, and when an execution ends because they changed."""

from typing import Any

import pytest

from cluster.nodes import NodeSize
from overlay.config import ClusterOptions, InferenceOptions
from overlay.errors import RequestError
from pipelines.inference import actor_pool
from pipelines.inference.actor_pool import ActorPool, NodesChanged, plan_pool


@pytest.mark.parametrize(
    ("asked", "nodes", "pool"),
    [
        (None, [2], ActorPool(1, 1.0, per_node=1, task_cpus=1.0)),
        (2, [2], ActorPool(2, 0.5, per_node=2, task_cpus=1.0)),
        (None, [4, 4, 4], ActorPool(3, 1.0, per_node=1, task_cpus=1.0)),
        (4, [4, 4, 4], ActorPool(4, 1.0, per_node=2, task_cpus=1.0)),
        (None, [1, 1], ActorPool(2, 0.125, per_node=1, task_cpus=0.75)),
        (None, [1], ActorPool(1, 0.25, per_node=1, task_cpus=0.75)),
        (None, [], ActorPool(0, 0.0, per_node=0, task_cpus=1.0)),
    ],
)
def test_on_cpus_each_node_has_an_actor_with_all_its_cores(
    asked: int | None, nodes: list[float], pool: ActorPool
) -> None:
    options = InferenceOptions("cpu", "auto", batch_size=32, actors=asked)
    assert ActorPool.plan(options, [NodeSize(cpus) for cpus in nodes]) == pool


def test_each_gpu_has_an_actor_and_tasks_have_all_cores() -> None:
    options = InferenceOptions("cuda", "auto", batch_size=32)
    nodes = [NodeSize(32, 4), NodeSize(32, 4), NodeSize(64)]
    assert ActorPool.plan(options, nodes) == ActorPool(8, 0.0, per_node=1, task_cpus=1.0)


def test_a_pool_that_is_too_large_for_the_nodes_is_made_smaller_or_refused(capsys: pytest.CaptureFixture[str]) -> None:
    gpus = InferenceOptions("cuda", actors=4)
    assert plan_pool(gpus, [NodeSize(8, 1), NodeSize(8, 1)]).actors == 2
    assert capsys.readouterr().out == "processes that hold the model: 2, since the nodes have no room for 4\n"
    shares = InferenceOptions("cpu", cluster=ClusterOptions(worker_cpus=2))
    assert plan_pool(shares, [NodeSize(3)] * 4).actors == 4
    with pytest.raises(
        RequestError, match=r"^no node has room for a process with 2 CPUs that holds the model, and for"
    ):
        plan_pool(shares, [NodeSize(2)])
    pairs = InferenceOptions("cuda", cluster=ClusterOptions(gpus_per_worker=2))
    with pytest.raises(RequestError, match=r"^no node has room for a process with .* and 2 GPUs that holds the model"):
        plan_pool(pairs, [NodeSize(8, 1), NodeSize(8, 1)])


def test_an_execution_ends_where_nodes_go_and_a_while_after_they_come(monkeypatch: pytest.MonkeyPatch) -> None:
    now, nodes = [0.0], list[Any]()
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr(actor_pool, "working_nodes", lambda: tuple(nodes))

    def ends(of: int, seen: dict[int, int], actors: int | None = None) -> int | None:
        """Return the second at which a pool ends, where ``seen`` has the numbers of nodes from some seconds on."""
        now[0] = 0.0
        nodes[:] = [NodeSize(2)] * of
        options = InferenceOptions("cpu", actors=actors)
        pool = ActorPool.plan(options, nodes)
        watched = type("Watch", (actor_pool._PoolWatch,), {"options": options, "pool": pool})()
        for second in range(1, 100):
            now[0] = float(second)
            nodes[:] = [NodeSize(2)] * seen.get(second, len(nodes))
            try:
                watched.on_execution_step(None)
            except NodesChanged:
                return second
        return None

    assert ends(2, {}) is None
    assert ends(2, {5: 1}) == 5
    assert ends(2, {5: 3, 9: 4}) == 19
    assert ends(1, {5: 2}) == 15
    assert ends(2, {5: 3, 9: 2}) is None
    assert ends(2, {5: 0}) is None  # nothing to start it on
    assert ends(2, {5: 0, 50: 1}) == 50
    assert ends(4, {5: 3}, actors=2) is None
    assert ends(4, {5: 2}, actors=2) == 5  # as many, but of smaller shares, or they could take both CPUs of a node
