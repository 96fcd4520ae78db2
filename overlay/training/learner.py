"""A network in training: what one step of the optimizer is, and all that it carries from step to step.

It knows neither Ray nor where images come from. A step depends on its arguments and on the state alone: what is drawn
at random in it depends on (seed, step, rank), so no generator's state has to be kept for a run that is resumed.
"""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from overlay.config import Train
from overlay.models.device import autocast
from overlay.models.network import StateDict, create_network, normalise
from overlay.models.pretrained import Weights, initialise_backbone
from overlay.training import freezing
from overlay.training.ema import Ema
from overlay.training.losses import sample_losses, soft_targets
from overlay.training.lr_schedule import LearningRateSchedule
from overlay.training.mixup import mix_batch
from overlay.training.optimizer import build_optimizer
from overlay.training.sampler import SamplePlan


class Learner:
    """Trains one worker's copy of the network; with several workers, torch's process group must be there.

    ``class_weights``, float32 (classes,), weigh the losses.
    """

    def __init__(
        self,
        config: Train,
        classes: int,
        weights: Weights,
        plan: SamplePlan,
        device: torch.device,
        *,
        rank: int = 0,
        world_size: int = 1,
        class_weights: Tensor | None = None,
    ) -> None:
        self._config, self._classes, self._plan = config, classes, plan
        self._rank, self._world_size = rank, world_size
        self._device = device
        torch.manual_seed(config.train.seed)
        network = create_network(config.model.arch, classes, config.model.dropout)
        initialise_backbone(network, weights)
        if config.train.sync_batch_norm:
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        self.network: nn.Module = network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._ema = Ema(self.network, config.train.ema) if config.train.ema else None
        self._optimizer = build_optimizer(self.network, config.optimizer)
        self._schedule = LearningRateSchedule(self._optimizer, config.optimizer, plan.steps, plan.steps_per_epoch)
        self._scaler = torch.GradScaler(device.type, enabled=config.train.precision == "fp16")
        self._autocast = autocast(device, config.train.precision)
        self._mean = torch.tensor(weights.mean, device=device)
        self._std = torch.tensor(weights.std, device=device)
        self._class_weights = None if class_weights is None else class_weights.to(device)
        self._norms = torch.zeros((), dtype=torch.float64, device=device)
        self._forward: Callable[[Tensor], Tensor] | None = None
        if device.type == "cuda":
            torch.set_float32_matmul_precision("high")  # TF32, where bf16 or fp16 don't apply anyway
            torch.backends.cudnn.benchmark = True

    @property
    def averaged(self) -> nn.Module:
        """The network to validate and to keep: the moving average, or the network itself where there is none."""
        return self.network if self._ema is None else self._ema.network

    @property
    def learning_rate(self) -> float:
        """The head's, in the coming step."""
        return self._schedule.learning_rate

    def begin_epoch(self, epoch: int) -> None:
        """Freeze what is frozen in an epoch, which counts from 0; call it before its first step, or in resuming."""
        changed = freezing.apply_freezing(self.network, self._config.model, epoch)
        if self._forward is None or changed:
            trained = DistributedDataParallel(self.network) if self._world_size > 1 else self.network
            self._wrapped: nn.Module = trained
            self._forward = torch.compile(trained) if self._config.train.compile else trained

    def step(self, images: Tensor, labels: Tensor, step: int, total_weight: float) -> tuple[Tensor, Tensor]:
        """Take one step of the optimizer; return the logits, float32 (n, classes), and the samples' losses, (n,).

        ``images`` uint8 (n, height, width, 3) and ``labels`` int64 (n,) are this worker's share of the batch, on the
        device; ``total_weight`` is the sum of the weights of all samples of the batch, over all workers.
        """
        assert self._forward is not None
        freezing.set_train_mode(self._wrapped)
        torch.manual_seed(_seed(self._config.train.seed, step, self._rank))
        parts = self._config.train.accumulate
        logits, losses = [], []
        shares = zip(images.tensor_split(parts), labels.tensor_split(parts), strict=True)
        for part, (some, of_them) in enumerate(shares):
            last = part == parts - 1
            with nullcontext() if last or self._world_size == 1 else self._wrapped.no_sync():  # type: ignore[operator]
                given, lost = self._part(some, of_them, step)
                # The gradient is that of the mean over the whole batch: DDP averages over the workers.
                self._scaler.scale(lost.sum() * (self._world_size / total_weight)).backward()  # type: ignore[no-untyped-call]
            logits.append(given.detach())
            losses.append(lost.detach())
        self._update()
        return torch.cat(logits), torch.cat(losses)

    def epoch_ended(self, val_loss: float) -> float:
        """Tell the schedule; return the mean of the gradient's norm over the steps since the last epoch ended."""
        self._schedule.epoch_ended(val_loss)
        mean = self._norms.item() / self._plan.steps_per_epoch
        self._norms.zero_()
        return mean

    def state_dict(self) -> dict[str, Any]:
        """Return all that a resumed run needs; the same for all workers, but the running statistics are one's own."""
        return {
            "network": self.network.state_dict(),
            "ema": None if self._ema is None else self._ema.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
            "scaler": self._scaler.state_dict(),
            "norms": self._norms,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where another learner of the same run stopped."""
        self.network.load_state_dict(state["network"])
        if self._ema is not None:
            self._ema.load_state_dict(state["ema"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        self._scaler.load_state_dict(state["scaler"])
        self._norms.copy_(state["norms"])

    def weights(self) -> StateDict:
        """Return the state_dict to validate and to keep."""
        state: StateDict = self.averaged.state_dict()  # type: ignore[assignment]
        return state

    def _part(self, images: Tensor, labels: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Go forward, and return the logits and the weighted loss of each sample."""
        assert self._forward is not None
        targets = soft_targets(labels, self._classes)
        normalised = normalise(images, self._mean, self._std)
        mixed, targets = mix_batch(normalised, targets, self._config.augment, seed=self._config.train.seed, step=step)
        with self._autocast:
            logits = self._forward(mixed)
        losses, _ = sample_losses(logits, targets, self._class_weights, self._config.loss.label_smoothing)
        return logits.float(), losses

    def _update(self) -> None:
        self._scaler.unscale_(self._optimizer)
        parameters = [parameter for parameter in self.network.parameters() if parameter.grad is not None]
        norm = nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
        # A scaled loss overflows now and then; such a step is left out by the scaler.
        self._norms += norm.nan_to_num(0, 0, 0) if self._scaler.is_enabled() else norm
        if self._config.optimizer.clip_norm is not None:
            nn.utils.clip_grads_with_norm_(parameters, self._config.optimizer.clip_norm, norm)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._optimizer.zero_grad(set_to_none=True)
        self._schedule.step()
        if self._ema is not None:
            self._ema.update(self.network)


def _seed(seed: int, step: int, rank: int) -> int:
    return int(np.random.SeedSequence((seed, step, rank), spawn_key=(2,)).generate_state(1, np.uint64)[0])
