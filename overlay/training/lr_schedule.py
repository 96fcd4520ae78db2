"""Learning rate schedules: a warm-up and a decay after it."""

import math
from typing import TypedDict

from torch.optim import Optimizer as TorchOptimizer

from overlay.config import Optimizer


class ScheduleState(TypedDict):
    """State of a `LearningRateSchedule` in a checkpoint."""

    step: int
    factor: float
    """product of the plateau schedule's drops"""
    best: float
    """lowest validation loss"""
    bad_epochs: int
    """epochs since the lowest validation loss or the last drop"""


def learning_rate_share(config: Optimizer, step: int, steps: int, steps_per_epoch: int) -> float:
    """Return the share of the highest learning rate that a step of a run of ``steps`` has, in 0..1.

    The rate rises over ``config.warmup`` of the steps; the step after the rise has the full rate, and there always is
    one. Then, by ``config.schedule``: "cosine" falls to 0 (Loshchilov & Hutter 2017, arXiv:1608.03983, without
    restarts), "step" drops after each ``config.step_size`` epochs, "constant" stays; so does "plateau", whose drops
    depend on the run (`LearningRateSchedule`). "onecycle" is torch's OneCycleLR with its default factors: a cosine from
    1/25 up to the full rate and another down to 1/250,000 (Smith & Topin 2019, arXiv:1708.07120); the momentum stays.
    """
    rise = min(round(config.warmup * steps), steps - 1)
    if config.schedule == "onecycle":
        top = max(rise - 1, 0)
        if step < top:
            return _cosine(1 / 25, 1.0, step / top)
        return _cosine(1.0, 1 / 250_000, min(1.0, (step - top) / max(1, steps - 1 - top)))
    if step < rise:
        return (step + 1) / (rise + 1) * _drops(config, step // steps_per_epoch)
    if config.schedule == "cosine":
        return _cosine(1.0, 0.0, (step - rise) / (steps - rise))
    return _drops(config, step // steps_per_epoch)


class LearningRateSchedule:
    """Schedule of the learning rates of an optimizer's groups, each of which keeps its share of the highest rate."""

    def __init__(self, optimizer: TorchOptimizer, config: Optimizer, steps: int, steps_per_epoch: int) -> None:
        self._optimizer, self._config = optimizer, config
        self._steps, self._steps_per_epoch = steps, steps_per_epoch
        self._step = 0
        self._factor = 1.0  # of the plateau's drops
        self._best = math.inf
        self._bad_epochs = 0
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        self._set()

    @property
    def learning_rate(self) -> float:
        """The head's learning rate in the coming step."""
        return self._config.lr * self._share

    @property
    def _share(self) -> float:
        return self._factor * learning_rate_share(self._config, self._step, self._steps, self._steps_per_epoch)

    def step(self) -> None:
        """Set the learning rates of the next step."""
        self._step += 1
        self._set()

    def end_epoch(self, val_loss: float) -> None:
        """Drop the rate after ``config.patience`` epochs without a lower loss; only the schedule "plateau" does.

        As torch's ReduceLROnPlateau: lower is lower by more than a ten-thousandth, and NaN is not.
        """
        if self._config.schedule != "plateau":
            return
        if val_loss < self._best * (1 - 1e-4):
            self._best, self._bad_epochs = val_loss, 0
        else:
            self._bad_epochs += 1
        if self._bad_epochs > self._config.patience:
            self._factor *= self._config.gamma
            self._bad_epochs = 0
            self._set()

    def state_dict(self) -> ScheduleState:
        """Return the state that a resumed run needs."""
        return {"step": self._step, "factor": self._factor, "best": self._best, "bad_epochs": self._bad_epochs}

    def load_state_dict(self, state: ScheduleState) -> None:
        """Resume from the state of another schedule of the same run."""
        self._step, self._factor = state["step"], state["factor"]
        self._best, self._bad_epochs = state["best"], state["bad_epochs"]
        self._set()

    def _set(self) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = group["initial_lr"] * self._share


def _drops(config: Optimizer, epoch: int) -> float:
    return config.gamma ** (epoch // config.step_size) if config.schedule == "step" else 1.0


def _cosine(start: float, end: float, done: float) -> float:
    """Interpolate from ``start`` to ``end`` on half a cosine's wave, of which the share ``done`` in 0..1 is done."""
    return end + (start - end) * (1 + math.cos(math.pi * done)) / 2
