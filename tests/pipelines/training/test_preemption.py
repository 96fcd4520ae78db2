import time
from collections.abc import Iterator
from typing import cast

import pytest
import ray
import ray.train
import ray.train.collective
from ray.actor import ActorHandle

from overlay.training.sampler import SINGLE_WORKER, Worker
from pipelines.training.preemption import ASK_EVERY, Interruptions
from pipelines.training.status_board import StatusBoard

BOARD = cast(ActorHandle[StatusBoard], None)


@pytest.fixture(autouse=True)
def nothing_is_preempted(ray_session: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray.train, "get_preemption_info", lambda: None)


def test_a_single_worker_stops_as_soon_as_the_answer_is_there() -> None:
    interruptions = Interruptions(BOARD, SINGLE_WORKER)
    interruptions.set_pending(ray.put(False))
    assert interruptions.decide(1) == "continue"
    interruptions.set_pending(ray.put(True))
    assert interruptions.decide(2) == "stop"


@pytest.mark.parametrize("requested", [True, False])
def test_several_workers_decide_together_by_rank_zero(requested: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray.train.collective, "broadcast_from_rank_zero", lambda _: (requested, 5))
    interruptions = Interruptions(BOARD, Worker(rank=1, world_size=2), _next_question=3)
    decisions = [interruptions.decide(step) for step in range(1, 5)]
    assert decisions == ["continue", "continue", "stop" if requested else "continue", "continue"]


def test_rank_zero_asks_again_after_a_second_of_steps_and_at_once_after_a_long_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sent: list[tuple[bool, int]] = []

    def broadcast(data: tuple[bool, int]) -> tuple[bool, int]:
        sent.append(data)
        return data

    monkeypatch.setattr(ray.train.collective, "broadcast_from_rank_zero", broadcast)
    clock = iter([0.25, 3.25])
    interruptions = Interruptions(BOARD, Worker(rank=0, world_size=2), _decided=0.0)
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    assert [interruptions.decide(step) for step in (1, 5)] == ["continue", "continue"]
    assert sent == [(False, 5), (False, 6)]


def test_a_preemption_is_saved_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    announced: Iterator[object] = iter([None, "node 1", "node 1", "node 2", None])
    monkeypatch.setattr(ray.train, "get_preemption_info", lambda: next(announced))
    interruptions = Interruptions(BOARD, SINGLE_WORKER)
    decisions = [interruptions.decide(step) for step in range(ASK_EVERY, 6 * ASK_EVERY, ASK_EVERY)]
    assert decisions == ["continue", "save", "continue", "save", "continue"]
