import pytest

from cluster.session import Resources
from pipelines.inference.model_actors import Engine, actors_of, share_of


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
    engine = Engine("cpu", "auto", batch_size=32, actors=asked)
    assert (actors_of(engine, cluster), share_of(actors, engine, cluster)) == (actors, share)


def test_each_gpu_has_an_actor_with_all_of_it() -> None:
    engine, cluster = Engine("cuda", "auto", batch_size=32), Resources(cpus=64, gpus=8, cpu_nodes=2)
    assert (actors_of(engine, cluster), share_of(8, engine, cluster)) == (8, 1)
