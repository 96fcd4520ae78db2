from contextlib import suppress

import pytest
from hypothesis import event, example, given
from hypothesis import strategies as st

from cluster.nodes import NodeSize, Resources
from overlay.config import ClusterOptions, Loop, Train
from overlay.errors import RequestError
from pipelines.inference.actor_pool import ActorPool
from pipelines.runtime.placement import Placement, choose_device, place_workers
from pipelines.train import inference_options


@pytest.mark.parametrize(
    ("wanted", "gpus", "chosen"),
    [("auto", 0, "cpu"), ("auto", 1, "cuda"), ("cpu", 4, "cpu"), ("cuda", 1, "cuda"), ("auto", 0.5, "cpu")],
)
def test_device(wanted: str, gpus: float, chosen: str) -> None:
    assert choose_device(wanted, Resources((NodeSize(8, gpus),))) == chosen


def test_cuda_without_a_gpu_is_refused() -> None:
    with pytest.raises(RequestError, match=r"^device is cuda, but the cluster has no GPU; choose cpu, or join .*$"):
        choose_device("cuda", Resources((NodeSize(8),)))


@pytest.mark.parametrize(
    ("workers", "cpus", "gpus", "placement"),
    [
        ("1..4", 16, 2, Placement("cuda", 1, 4, worker_cpus=1)),
        (1, 2, 0, Placement("cpu", 1, 1, worker_cpus=1)),
        (2, 2, 0, Placement("cpu", 2, 2, worker_cpus=0.5)),
        (3, 4, 0, Placement("cpu", 3, 3, worker_cpus=1)),
        (2, 16, 2, Placement("cuda", 2, 2, worker_cpus=1)),
        (4, 3, 4, Placement("cuda", 4, 4, worker_cpus=0.5)),
        (1, 1, 0, Placement("cpu", 1, 1, worker_cpus=0.25, task_cpus=0.75)),
    ],
)
def test_a_cpu_stays_for_the_data(workers: int | str, cpus: float, gpus: float, placement: Placement) -> None:
    assert place_workers(Loop(workers=workers), Resources((NodeSize(cpus, gpus),))) == placement


@pytest.mark.parametrize(
    ("loop", "resources", "there"),
    [
        (Loop(workers=3), Resources((NodeSize(2, 0),)), "2 CPUs"),
        (Loop(workers=3), Resources((NodeSize(16, 2),)), "2 GPUs"),
        (Loop(workers=3, device="cuda"), Resources((NodeSize(16, 1),)), "1 GPUs"),
        (Loop(workers=3, device="cpu"), Resources((NodeSize(2, 8),)), "2 CPUs"),
    ],
)
def test_more_workers_than_there_is_room_for_are_refused(loop: Loop, resources: Resources, there: str) -> None:
    with pytest.raises(RequestError, match=f"^train.workers is 3, but the cluster has {there}; ask for fewer$"):
        place_workers(loop, resources)


def test_without_gpus_a_growing_run_takes_one_worker_a_node() -> None:
    nodes = Resources((NodeSize(4),) * 3)
    assert place_workers(Loop(workers="2..8"), nodes) == Placement("cpu", 2, 8, worker_cpus=3)
    with pytest.raises(
        RequestError, match=r"^train.workers is 2..8, but without GPUs .*, and these have 2; give one number$"
    ):
        place_workers(Loop(workers="2..8"), Resources((NodeSize(2),) * 2))


def test_what_is_missing_is_named() -> None:
    on_gpus = Placement("cuda", least_workers=2, most_workers=8, worker_cpus=1)
    assert on_gpus.describe_shortage(Resources((NodeSize(16, 2),))) is None
    assert on_gpus.describe_shortage(Resources((NodeSize(16, 1),))) == "training needs 2 GPUs, and the cluster has 1"
    taken = Resources((NodeSize(16, 2),), free_cpus=9, free_gpus=0.5)
    assert on_gpus.describe_shortage(taken, queued=True) == "training needs 2 GPUs, and 0.5 of the cluster's 2 are free"
    on_cpus = Placement("cpu", least_workers=3, most_workers=3, worker_cpus=0.5)
    assert on_cpus.describe_shortage(Resources((NodeSize(1, 0),))) == "training needs 1.5 CPUs, and the cluster has 1"


def test_the_data_tasks_share_the_rest() -> None:
    placement = Placement("cuda", least_workers=1, most_workers=4, worker_cpus=1)
    assert placement.data_cpus(2, Resources((NodeSize(16, 2),))) == 7
    assert placement.data_cpus(2, Resources((NodeSize(2, 2),))) == 0.5  # never none


def test_what_a_worker_reserves_can_be_given() -> None:
    options = ClusterOptions(worker_cpus=3, gpus_per_worker=0.5, memory=2, accelerator_type="L4")
    placement = place_workers(Loop(workers=4), Resources((NodeSize(16, 2),)), options)
    assert placement.bundle == {"CPU": 3, "GPU": 0.5, "accelerator_type:L4": 0.001, "memory": 2**31}
    with pytest.raises(RequestError, match=r"train\.workers is 5 with 0\.5 each, but the cluster has 2 GPUs; ask for "):
        place_workers(Loop(workers=5), Resources((NodeSize(16, 2),)), options)
    with pytest.raises(RequestError, match=r"train\.workers is 2 with 3 each, but the cluster has 4 CPUs; ask for "):
        place_workers(Loop(workers=2), Resources((NodeSize(4, 0),)), options)


@given(
    st.lists(st.builds(NodeSize, st.integers(1, 16), st.integers(0, 4)), min_size=1, max_size=5),
    st.sampled_from([1, 2, 3, 4, 8, "1..2", "2..8"]),
    st.sampled_from([None, 0.25, 1, 2, 3]),
    st.sampled_from([0.25, 0.5, 1, 2]),
)
@example([NodeSize(1), NodeSize(3)], 2, 1, 1)
def test_a_cluster_that_can_train_can_evaluate(
    nodes: list[NodeSize], workers: int | str, worker_cpus: float | None, gpus_each: float
) -> None:
    """A request must not be refused once its training is over."""
    config = Train("dataset", "run", cluster=ClusterOptions(worker_cpus=worker_cpus, gpus_per_worker=gpus_each))
    with suppress(RequestError):
        placement = place_workers(Loop(workers=workers), Resources(tuple(nodes)), config.cluster)
        event(f"{placement.device}, worker_cpus {worker_cpus is not None}")
        assert ActorPool.plan(inference_options(config, placement, batch_size=32), nodes).actors >= 1
