import math

import pytest
from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from overlay.config import Optimizer
from overlay.optimization import adamw, warmup_then_cosine


def start(config: Optimizer, steps: int) -> tuple[AdamW, LambdaLR]:
    optimizer = adamw(nn.Linear(1, 1), config)
    return optimizer, warmup_then_cosine(optimizer, config, steps)


def take(optimizer: AdamW, schedule: LambdaLR, steps: int) -> list[float]:
    """Return the learning rate of each of the next steps."""
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates


def test_a_whole_run_by_hand() -> None:
    optimizer, schedule = start(Optimizer(lr=0.5, warmup=0.3), steps=10)
    rise = [0.125, 0.25, 0.375]
    fall = [0.25 * (1 + math.cos(math.pi * step / 7)) for step in range(7)]
    assert take(optimizer, schedule, 10) == pytest.approx(rise + fall, abs=1e-15)
    assert optimizer.param_groups[0]["lr"] == 0


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


@pytest.mark.parametrize("done", [1, 3, 4, 9])
def test_a_resumed_run_goes_on_with_the_same_rates(done: int) -> None:
    config = Optimizer(lr=0.5, warmup=0.3)
    whole = take(*start(config, 10), 10)
    optimizer, schedule = start(config, 10)
    take(optimizer, schedule, done)
    again, resumed = start(config, 10)
    again.load_state_dict(optimizer.state_dict())
    resumed.load_state_dict(schedule.state_dict())
    assert take(again, resumed, 10 - done) == whole[done:]


def test_weight_decay_reaches_every_parameter() -> None:
    optimizer, _ = start(Optimizer(weight_decay=0.25), steps=1)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.25]
    assert len(optimizer.param_groups[0]["params"]) == 2
