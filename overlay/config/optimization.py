"""Options of `overlay train` for optimizer, loss and early stopping."""

from dataclasses import dataclass
from typing import Literal

from overlay.config.common import check


@dataclass(frozen=True)
class Optimizer:
    """Optimizer, learning rates and their schedule."""

    name: Literal["adamw", "sgd"] = "adamw"
    """sgd has a Nesterov momentum of 0.9; its learning rates are about 100 times those of adamw"""
    lr: float = 3e-4
    """peak learning rate"""
    backbone_lr: float | None = None
    """peak learning rate of all layers but the head; default optimizer.lr"""
    layer_decay: float | None = None
    """layer-wise learning rate decay: factor from each stage of a ResNet to the one below it; 0.65 to 0.9 is usual"""
    weight_decay: float = 0.01
    """weight decay of all weights but biases and normalisation"""
    decay_norm_and_bias: bool = False
    """apply the weight decay to biases and the parameters of normalisation, too"""
    schedule: Literal["cosine", "onecycle", "step", "plateau", "constant"] = "cosine"
    """learning rate after the warm-up; onecycle is Smith's, whose warm-up is a cosine too"""
    warmup: float = 0.1
    """share of the run's steps in which the learning rate rises from 0 to its peak"""
    step_size: int = 10
    """epochs between two drops of the step schedule"""
    patience: int = 3
    """epochs without a lower val_loss before a drop of the plateau schedule"""
    gamma: float = 0.1
    """factor of a drop of the step and plateau schedules"""
    clip_norm: float | None = None
    """gradient clipping: largest norm of the gradient of all parameters together"""

    def __post_init__(self) -> None:
        check(self.lr > 0, f"optimizer.lr is {self.lr}; it must be above 0")
        for name in ("backbone_lr", "clip_norm"):
            value = getattr(self, name)
            check(value is None or value > 0, f"optimizer.{name} is {value}; it must be above 0")
        check(
            self.layer_decay is None or 0 < self.layer_decay <= 1,
            f"optimizer.layer_decay is {self.layer_decay}; it must be above 0 and at most 1",
        )
        check(
            self.backbone_lr is None or self.layer_decay is None,
            f"optimizer.backbone_lr is {self.backbone_lr} and optimizer.layer_decay is {self.layer_decay}; give one of "
            "them",
        )
        check(self.weight_decay >= 0, f"optimizer.weight_decay is {self.weight_decay}; it must be at least 0")
        check(0 <= self.warmup < 1, f"optimizer.warmup is {self.warmup}; it must be at least 0 and below 1")
        check(self.step_size >= 1, f"optimizer.step_size is {self.step_size}; it must be at least 1")
        check(self.patience >= 0, f"optimizer.patience is {self.patience}; it must be at least 0")
        check(0 < self.gamma < 1, f"optimizer.gamma is {self.gamma}; it must be above 0 and below 1")


@dataclass(frozen=True)
class Loss:
    """Cross-entropy loss: label smoothing and class weights."""

    label_smoothing: float = 0.0
    """share of the target that is spread evenly over all classes; 0.1 is usual"""
    class_weights: Literal["none", "balanced"] = "none"
    """balanced weights each class by n / (classes * n of the class), so that rare and frequent ones count the same"""

    def __post_init__(self) -> None:
        check(
            0 <= self.label_smoothing < 1,
            f"loss.label_smoothing is {self.label_smoothing}; it must be at least 0 and below 1",
        )


@dataclass(frozen=True)
class EarlyStopping:
    """Early stopping, and the choice of the best epoch, whose weights are the result."""

    metric: Literal["val_loss", "val_accuracy", "val_macro_f1"] = "val_loss"
    """metric by which the best epoch is chosen"""
    patience: int = 8
    """epochs without an improvement after which the run stops"""
    min_delta: float = 0.0
    """smallest improvement that counts"""

    def __post_init__(self) -> None:
        check(self.patience >= 1, f"early_stopping.patience is {self.patience}; it must be at least 1")
        check(self.min_delta >= 0, f"early_stopping.min_delta is {self.min_delta}; it must be at least 0")
