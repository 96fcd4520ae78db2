"""Ray backend of a prediction where nodes change: when the processes that hold the model start anew."""

import pytest

from cluster.nodes import NodeSize, Resources
from overlay.config import InferenceOptions
from pipelines.inference.actor_pool import ActorPool
from pipelines.inference.ray_backend import RayBackend

NODES = (NodeSize(2), NodeSize(2))


@pytest.mark.parametrize(
    ("held", "free", "waited"),
    [
        (0.0, [1.0, 3.0, 4.0], 2),  # until the last task has ended
        (1.0, [2.0, 3.0], 1),  # not for what other jobs held at the begin
        (0.0, [1.0] * 100, 61),  # others took what became free
    ],
)
def test_the_pool_is_planned_anew_once_the_tasks_of_the_old_one_have_ended(
    monkeypatch: pytest.MonkeyPatch, held: float, free: list[float], waited: int, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr("time.sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    looks = iter(free)
    monkeypatch.setattr("cluster.session.resources", lambda: Resources(NODES, free_cpus=next(looks)))
    backend = RayBackend.__new__(RayBackend)
    backend._engine, backend._held = InferenceOptions("cpu"), held
    backend._pool = ActorPool.plan(backend._engine, NODES[:1])
    backend._plan_pool_anew()
    assert (now[0], backend._pool) == (waited, ActorPool.plan(backend._engine, NODES))
    assert capsys.readouterr().out == "processes that hold the model: 2, before 1\n"
