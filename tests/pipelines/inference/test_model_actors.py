import pytest

from cluster.session import Resources
from overlay.config import InferenceOptions
from pipelines.inference.model_actors import actor_count, actors_per_node


@pytest.mark.parametrize(
    ("asked", "cluster", "actors", "share"),
    [
        (None, Resources(cpus=2, gpus=0), 1, 1),
        (2, Resources(cpus=2, gpus=0), 2, 2),
        (None, Resources(cpus=12, gpus=0, cpu_nodes=3), 3, 1),
        (4, Resources(cpus=12, gpus=0, cpu_nodes=3), 4, 2),
    ],
)
def test_on_cpus_each_node_has_an_actor_with_all_its_cores(
    asked: int | None, cluster: Resources, actors: int, share: int
) -> None:
    options = InferenceOptions("cpu", "auto", batch_size=32, actors=asked)
    assert (actor_count(options, cluster), actors_per_node(actors, options, cluster)) == (actors, share)


def test_each_gpu_has_an_actor_with_all_of_it() -> None:
    options, cluster = InferenceOptions("cuda", "auto", batch_size=32), Resources(cpus=64, gpus=8, cpu_nodes=2)
    assert (actor_count(options, cluster), actors_per_node(8, options, cluster)) == (8, 1)
