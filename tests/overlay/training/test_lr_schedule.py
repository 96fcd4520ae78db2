import io
import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.optim import Optimizer as TorchOptimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, OneCycleLR, ReduceLROnPlateau, StepLR

from overlay.config import Optimizer
from overlay.training.lr_schedule import LearningRateSchedule, learning_rate_share
from overlay.training.optimizer import build_optimizer


def start(config: Optimizer, steps: int, steps_per_epoch: int = 5) -> tuple[TorchOptimizer, LearningRateSchedule]:
    optimizer = build_optimizer(nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1)), config)
    return optimizer, LearningRateSchedule(optimizer, config, steps, steps_per_epoch)


def take(optimizer: TorchOptimizer, schedule: LearningRateSchedule | LRScheduler, steps: int) -> list[float]:
    """Return the learning rate of each of the next steps."""
    rates = []
    for _ in range(steps):
        rates.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        schedule.step()
    return rates


def torchs(make: Callable[[TorchOptimizer], LRScheduler], steps: int, lr: float = 0.5) -> list[float]:
    """Return the learning rates of a scheduler of torch's."""
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=lr)
    return take(optimizer, make(optimizer), steps)


def test_a_whole_run_by_hand() -> None:
    optimizer, schedule = start(Optimizer(lr=0.5, warmup=0.3), steps=10)
    rise = [0.125, 0.25, 0.375]
    fall = [0.25 * (1 + math.cos(math.pi * step / 7)) for step in range(7)]
    assert take(optimizer, schedule, 10) == pytest.approx(rise + fall, abs=1e-15)
    assert optimizer.param_groups[0]["lr"] == 0


def test_cosine_is_torch_s() -> None:
    ours = take(*start(Optimizer(lr=0.5, warmup=0), 40), 40)
    assert ours == pytest.approx(torchs(lambda optimizer: CosineAnnealingLR(optimizer, 40), 40), rel=1e-12)


def test_the_rise_is_torch_s() -> None:
    ours = take(*start(Optimizer(lr=0.5, warmup=0.25, schedule="constant"), 40), 40)
    expected = torchs(lambda optimizer: LinearLR(optimizer, start_factor=1 / 11, total_iters=10), 40)
    assert ours == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("rise", [2, 10, 20, 39])
def test_onecycle_is_torch_s(rise: int) -> None:
    ours = take(*start(Optimizer(lr=0.5, warmup=rise / 40, schedule="onecycle"), 40), 39)
    expected = torchs(
        lambda optimizer: OneCycleLR(optimizer, 0.5, total_steps=40, pct_start=rise / 40, cycle_momentum=False), 39
    )
    assert ours == pytest.approx(expected, rel=1e-9)


def test_step_is_torch_s_once_an_epoch() -> None:
    config = Optimizer(lr=0.5, warmup=0, schedule="step", step_size=3, gamma=0.5)
    ours = take(*start(config, 40), 40)
    expected = torchs(lambda optimizer: StepLR(optimizer, step_size=3, gamma=0.5), 8)
    assert ours[::5] == pytest.approx(expected, rel=1e-12)
    assert ours == [ours[step // 5 * 5] for step in range(40)]


@given(st.lists(st.floats(0.01, 2) | st.just(math.nan), max_size=30), st.integers(0, 3))
def test_plateau_is_torch_s(losses: list[float], patience: int) -> None:
    config = Optimizer(lr=0.5, warmup=0, schedule="plateau", patience=patience, gamma=0.5)
    optimizer, schedule = start(config, steps=10_000)
    other = torch.optim.SGD([torch.zeros(1)], lr=0.5)
    # Torch leaves drops of less than eps away.
    expected = ReduceLROnPlateau(other, factor=0.5, patience=patience, eps=0)
    for loss in losses:
        schedule.end_epoch(loss)
        expected.step(loss)
        assert schedule.learning_rate == optimizer.param_groups[0]["lr"] == other.param_groups[0]["lr"]


def test_only_the_plateau_heeds_the_loss() -> None:
    for name in ("cosine", "onecycle", "step", "constant"):
        optimizer, schedule = start(Optimizer(schedule=name, patience=0), 10)
        before = optimizer.param_groups[0]["lr"]
        for loss in (1.0, 2.0, 3.0):
            schedule.end_epoch(loss)
        assert optimizer.param_groups[0]["lr"] == before


@pytest.mark.parametrize(
    ("warmup", "steps", "peak"), [(0, 5, 0), (0.1, 20, 2), (0.1, 1, 0), (0.5, 4, 2), (0.99, 2, 1), (0.99, 10, 9)]
)
def test_the_step_after_the_rise_has_the_full_learning_rate(warmup: float, steps: int, peak: int) -> None:
    rates = take(*start(Optimizer(lr=3e-4, warmup=warmup), steps), steps)
    assert rates[peak] == 3e-4
    assert max(rates) == 3e-4
    assert min(rates) > 0
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)


@given(
    st.sampled_from(["cosine", "onecycle", "step", "plateau", "constant"]),
    st.floats(0, 0.99),
    st.integers(1, 60),
    st.integers(1, 20),
)
def test_a_share_lies_between_0_and_1_and_once_is_1(name: str, warmup: float, steps: int, steps_per_epoch: int) -> None:
    config = Optimizer(schedule=name, warmup=warmup, step_size=1000)  # type: ignore[arg-type]
    shares = [learning_rate_share(config, step, steps, steps_per_epoch) for step in range(steps + 1)]
    assert min(shares[:-1]) > 0
    assert max(shares) == 1


def test_every_group_keeps_its_share() -> None:
    config = Optimizer(lr=0.5, backbone_lr=0.125, warmup=0.3)
    optimizer, schedule = start(config, 10)
    for step in range(10):
        expected = learning_rate_share(config, step, 10, 5)
        assert {group["lr"] for group in optimizer.param_groups} == {0.5 * expected, 0.125 * expected}
        assert schedule.learning_rate == 0.5 * expected
        optimizer.step()
        schedule.step()


@pytest.mark.parametrize("name", ["cosine", "plateau"])
@pytest.mark.parametrize("done", [1, 3, 4, 9])
def test_a_resumed_run_goes_on_with_the_same_rates(name: str, done: int) -> None:
    config = Optimizer(lr=0.5, warmup=0.3, schedule=name, patience=0)  # type: ignore[arg-type]
    first, second = start(config, 10), start(config, 10)
    for _, schedule in (first, second):
        for loss in (1.0, 2.0):
            schedule.end_epoch(loss)
    whole = take(*first, 10)
    optimizer, schedule = second
    take(optimizer, schedule, done)
    file = io.BytesIO()
    torch.save({"optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()}, file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    again, resumed = start(config, 10)
    again.load_state_dict(state["optimizer"])
    resumed.load_state_dict(state["schedule"])
    assert take(again, resumed, 10 - done) == whole[done:]
    assert resumed.state_dict() == first[1].state_dict()
