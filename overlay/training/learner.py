"""Training step and training state of one worker: forward, backward, optimizer, schedule, EMA.

It knows neither Ray nor the source of images. A step depends on its arguments and on the state alone: random numbers
in it depend on (seed, step, rank), so no generator's state has to be saved for a run that is resumed.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from overlay.config import Train
from overlay.models.device import autocast
from overlay.models.network import StateDict, create_network, normalise
from overlay.models.pretrained import Weights, initialise_backbone
from overlay.training import freezing
from overlay.training.ema import Ema, EmaState
from overlay.training.losses import sample_losses, soft_targets
from overlay.training.lr_schedule import LearningRateSchedule, ScheduleState
from overlay.training.mixup import mix_batch
from overlay.training.optimizer import build_optimizer
from overlay.training.sampler import SINGLE_WORKER, SamplePlan, Worker


@dataclass(frozen=True)
class LearningTask:
    """Definition of a training, the same for all workers."""

    config: Train
    classes: int
    weights: Weights
    """initial weights of the backbone"""
    plan: SamplePlan
    class_weights: Tensor | None = None
    """float32 (classes,), factors of the losses; None where all are alike"""


class LearnerState(TypedDict):
    """State of a `Learner` in a checkpoint; the same for all workers, except that running statistics are one's own."""

    network: dict[str, Tensor]
    ema: EmaState | None
    optimizer: dict[str, Any]
    """as torch's optimizers define it"""
    schedule: ScheduleState
    scaler: dict[str, Any]
    """as torch.GradScaler defines it; empty unless the precision is fp16"""
    norms: Tensor
    """float64 (), sum of the gradient norms of the epoch's steps so far"""


class Learner:
    """One worker's copy of the network in training; with several workers it needs torch's process group (DDP)."""

    def __init__(self, task: LearningTask, device: torch.device, worker: Worker = SINGLE_WORKER) -> None:
        self._config, self._classes, self._plan = task.config, task.classes, task.plan
        self._device, self._worker = device, worker
        config = task.config
        torch.manual_seed(config.train.seed)
        network = create_network(config.model.arch, task.classes, config.model.dropout)
        initialise_backbone(network, task.weights)
        if config.train.sync_batch_norm:
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        self.network: nn.Module = network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._ema = Ema(self.network, config.train.ema) if config.train.ema else None
        self._optimizer = build_optimizer(self.network, config.optimizer)
        self._schedule = LearningRateSchedule(
            self._optimizer, config.optimizer, self._plan.steps, self._plan.steps_per_epoch
        )
        self._scaler = torch.GradScaler(device.type, enabled=config.train.precision == "fp16")
        self._autocast = autocast(device, config.train.precision)
        self._mean = torch.tensor(task.weights.mean, device=device)
        self._std = torch.tensor(task.weights.std, device=device)
        self._class_weights = None if task.class_weights is None else task.class_weights.to(device)
        self._norms = torch.zeros((), dtype=torch.float64, device=device)
        self._forward: Callable[[Tensor], Tensor] | None = None
        if device.type == "cuda":
            torch.set_float32_matmul_precision("high")  # TF32, where bf16 or fp16 don't apply anyway

    @property
    def evaluation_network(self) -> nn.Module:
        """Network to validate and to save: the EMA, or the trained network itself where there is none."""
        return self.network if self._ema is None else self._ema.network

    @property
    def learning_rate(self) -> float:
        """The head's learning rate in the coming step."""
        return self._schedule.learning_rate

    def begin_epoch(self, epoch: int) -> None:
        """Apply the freezing of an epoch, counted from 0, and set the network to training mode.

        Call it before the epoch's first step, when resuming, and after a validation.
        """
        changed = freezing.apply_freezing(self.network, self._config.model, epoch)
        if self._forward is None or changed:
            self._wrapped: nn.Module = self.network
            if self._worker.world_size > 1:  # gradients are views of the buckets that are exchanged: one copy less
                self._wrapped = DistributedDataParallel(self.network, gradient_as_bucket_view=True)
            # A share of a batch has one of two sizes, and each is compiled for itself.
            compiled = self._config.train.compile
            self._forward = torch.compile(self._wrapped, dynamic=False) if compiled else self._wrapped
            self._trained = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        freezing.set_train_mode(self._wrapped)

    def step(self, images: Tensor, labels: Tensor, step: int, total_weight: float) -> tuple[Tensor, Tensor]:
        """Take one optimizer step, with gradient accumulation if configured.

        ``images`` uint8 (n, height, width, 3) and ``labels`` int64 (n,) are this worker's share of the batch, on the
        device; ``total_weight`` is the sum of the weights of all samples of the batch, over all workers. Returns the
        logits, float32 (n, classes), and the samples' losses, (n,).

        Raises:
            torch.OutOfMemoryError: the GPU's memory is too small for the share.
        """
        assert self._forward is not None
        torch.manual_seed(_step_seed(self._config.train.seed, step, self._worker.rank))
        parts = self._config.train.accumulate
        all_logits, all_losses = [], []
        shares = zip(images.tensor_split(parts), labels.tensor_split(parts), strict=True)
        for part, (part_images, part_labels) in enumerate(shares):
            synchronised = part == parts - 1 or self._worker.world_size == 1
            with nullcontext() if synchronised else self._wrapped.no_sync():  # type: ignore[operator]
                logits, losses = self._forward_pass(part_images, part_labels, step)
                # The gradient is that of the mean over the whole batch: DDP averages over the workers.
                loss = losses.sum() * (self._worker.world_size / total_weight)
                self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            all_logits.append(logits.detach())
            all_losses.append(losses.detach())
        self._update()
        return torch.cat(all_logits), torch.cat(all_losses)

    def end_epoch(self, val_loss: float) -> float:
        """Advance the plateau schedule; return the mean gradient norm over the steps since the last epoch ended."""
        self._schedule.end_epoch(val_loss)
        mean = self._norms.item() / self._plan.steps_per_epoch
        self._norms.zero_()
        return mean

    def state_dict(self) -> LearnerState:
        """Return the state that a resumed run needs."""
        return {
            "network": self.network.state_dict(),
            "ema": None if self._ema is None else self._ema.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
            "scaler": self._scaler.state_dict(),
            "norms": self._norms,
        }

    def load_state_dict(self, state: LearnerState) -> None:
        """Resume from the state of another learner of the same run."""
        self.network.load_state_dict(state["network"])
        if self._ema is not None and state["ema"] is not None:
            self._ema.load_state_dict(state["ema"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        self._scaler.load_state_dict(state["scaler"])
        self._norms.copy_(state["norms"])

    def evaluation_state_dict(self) -> StateDict:
        """Return the state_dict of `evaluation_network`."""
        state: StateDict = self.evaluation_network.state_dict()  # type: ignore[assignment]
        return state

    def _forward_pass(self, images: Tensor, labels: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Return the logits, float32 (n, classes), and the weighted loss of each sample, (n,)."""
        assert self._forward is not None
        targets = soft_targets(labels, self._classes)
        normalised = normalise(images, self._mean, self._std)
        mixed, targets = mix_batch(normalised, targets, self._config.augment, seed=self._config.train.seed, step=step)
        with self._autocast:
            logits = self._forward(mixed)
        losses, _ = sample_losses(logits, targets, self._class_weights, self._config.loss.label_smoothing)
        return logits.float(), losses

    def _update(self) -> None:
        """Clip the gradients, and step optimizer, schedule and EMA; the scaler skips a step whose loss overflowed."""
        self._scaler.unscale_(self._optimizer)
        norm = nn.utils.get_total_norm([each.grad for each in self._trained if each.grad is not None])
        # A scaled loss overflows now and then.
        self._norms += norm.nan_to_num(0, 0, 0) if self._scaler.is_enabled() else norm
        if self._config.optimizer.clip_norm is not None:
            nn.utils.clip_grads_with_norm_(self._trained, self._config.optimizer.clip_norm, norm)
        scale = self._scaler.get_scale()
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._optimizer.zero_grad(set_to_none=True)
        if self._scaler.get_scale() < scale:  # lowered after a skipped step only; without a scaler it is always 1
            return
        self._schedule.step()
        if self._ema is not None:
            self._ema.update(self.network)


def _step_seed(seed: int, step: int, rank: int) -> int:
    """Return the seed of torch's generator for one step of one worker (dropout, stochastic depth)."""
    return int(np.random.SeedSequence((seed, step, rank), spawn_key=(2,)).generate_state(1, np.uint64)[0])
