"""Room for a task beside actors, on nodes of any sizes and wherever Ray places them."""

from collections.abc import Iterator
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.nodes import NodeSize
from pipelines.runtime.node_shares import actor_share, actor_slots, elastic_share, leaves_room, task_share

SMALL = [1.0, 1.5, 2.0, 3.0, 4.0, 8.0]
cpu_nodes = st.lists(st.sampled_from(SMALL).map(NodeSize), min_size=1, max_size=3)
gpu_nodes = st.lists(
    st.builds(NodeSize, st.sampled_from(SMALL), st.sampled_from([0.0, 1.0, 2.0])), min_size=1, max_size=3
)


def placements(nodes: list[NodeSize], actors: int, share: float, gpus_each: float | None) -> Iterator[list[int]]:
    """Yield all numbers of actors on each node that Ray may come to, of up to ``actors`` in all."""
    for numbers in product(range(actors + 1), repeat=len(nodes)):
        pairs = list(zip(nodes, numbers, strict=True))
        fits = all(number * share <= node.cpus + 1e-9 for node, number in pairs)
        if gpus_each is not None:
            fits = fits and all(number * gpus_each <= node.gpus for node, number in pairs)
        if fits and sum(numbers) <= actors:
            yield list(numbers)


def with_one_lost(nodes: list[NodeSize]) -> list[list[NodeSize]]:
    fewer = [nodes[:lost] + nodes[lost + 1 :] for lost in range(len(nodes))]
    return [nodes, *(each for each in fewer if each)]


def has_room(nodes: list[NodeSize], numbers: list[int], share: float, task: float) -> bool:
    return any(node.cpus - number * share >= task - 1e-9 for node, number in zip(nodes, numbers, strict=True))


@given(cpu_nodes, st.integers(1, 5))
def test_a_task_has_room_wherever_actors_are_and_after_any_node_is_lost(nodes: list[NodeSize], actors: int) -> None:
    share, task = actor_share(nodes, actors), task_share(nodes)
    assert 0 < share <= 1
    for left in with_one_lost(nodes):
        found = list(placements(left, actors, share, None))
        assert all(has_room(left, numbers, share, task) for numbers in found)
        assert max(map(sum, found)) == actors  # all of them start again


@given(gpu_nodes, st.sampled_from([0.5, 1.0, 2.0]), st.integers(1, 5))
def test_a_task_has_room_beside_actors_on_gpus(nodes: list[NodeSize], gpus_each: float, asked: int) -> None:
    actors = min(asked, actor_slots(nodes, 0, gpus_each))
    share, task = actor_share(nodes, actors, gpus_each), task_share(nodes)
    for left in with_one_lost(nodes):
        for numbers in placements(left, actors, share, gpus_each):
            assert has_room(left, numbers, share, task)


@given(cpu_nodes, st.integers(1, 4), st.sampled_from([0.3, 0.5, 1.0, 1.7, 2.0, 3.0, 7.0]), st.booleans())
def test_a_given_share_leaves_room_exactly_where_no_placement_takes_it(
    nodes: list[NodeSize], actors: int, share: float, together: bool
) -> None:
    found = all(
        has_room(left, numbers, share, task_share(nodes))
        for left in with_one_lost(nodes)
        for numbers in placements(left, actors, share, None)
        if not together or sum(numbers) == actors
    )
    assert leaves_room(nodes, actors, share, together=together) == found


@given(
    st.lists(st.sampled_from([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0]).map(NodeSize), min_size=1, max_size=3),
    st.integers(2, 5),
)
def test_a_growing_run_leaves_room_however_many_workers_start(nodes: list[NodeSize], most: int) -> None:
    share = elastic_share(nodes, most)
    if share is None:
        return
    for left in with_one_lost(nodes):
        for numbers in placements(left, most, share, None):
            assert has_room(left, numbers, share, 1.0)


@pytest.mark.parametrize(
    ("cpus", "actors", "share", "task"),
    [
        ([2], 1, 1.0, 1.0),
        ([2], 2, 0.5, 1.0),
        ([1], 1, 0.25, 0.75),
        ([1, 1], 2, 0.125, 0.75),  # both may start again on the one that is left
        ([1, 1, 1, 1], 4, 0.25, 0.75),  # two on each of two nodes, and the third has room
        ([2, 2], 2, 0.5, 1.0),
        ([8, 8], 2, 1.0, 1.0),
        ([64, 1], 2, 0.125, 0.75),
        ([4] * 100, 100, 1.0, 1.0),
    ],
)
def test_shares_of_known_clusters(cpus: list[float], actors: int, share: float, task: float) -> None:
    nodes = [NodeSize(each) for each in cpus]
    assert (actor_share(nodes, actors), task_share(nodes)) == (share, task)


def test_an_actor_on_each_gpu_has_a_cpu_where_its_node_has_more() -> None:
    assert actor_share([NodeSize(64, 8)] * 4, 32, 1.0) == 1.0
    assert actor_share([NodeSize(8, 8)], 8, 1.0) == 0.875
    assert actor_share([NodeSize(1, 1), NodeSize(8)], 1, 1.0) == 0.25  # a node of 1 CPU is left where the other is lost


def test_slots_are_counted_by_node() -> None:
    nodes = [NodeSize(3, 1), NodeSize(3, 1)]
    assert [actor_slots(nodes, 0, each) for each in (0.5, 1.0, 2.0)] == [4, 2, 0]
    assert [actor_slots(nodes, share, None) for share in (1, 2, 3, 4)] == [6, 2, 2, 0]


@pytest.mark.parametrize(
    ("cpus", "share"),
    [([4, 4, 4], 3.0), ([3], 2.0), ([4, 6], 2.5), ([1, 8, 8], 7.0), ([2, 2], None), ([3, 4], None)],
)
def test_workers_of_a_growing_run(cpus: list[float], share: float | None) -> None:
    assert elastic_share([NodeSize(each) for each in cpus], most=8) == share
