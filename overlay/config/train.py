"""The options of `overlay train`."""

from dataclasses import dataclass, field
from typing import Literal

from overlay.config.common import Device, Precision, ResizeRule, check


@dataclass(frozen=True)
class Input:
    """What the model sees of an image."""

    size: int = 224
    """side in pixels of the square that the model sees"""
    resize: ResizeRule = "squash"
    """squash to the square, pad to it with black, or crop its centre out of size * 256 / 224"""

    def __post_init__(self) -> None:
        check(32 <= self.size <= 2048, f"input.size is {self.size}; it must lie between 32 and 2048")


@dataclass(frozen=True)
class Augment:
    """Random changes to each training image, drawn anew in each epoch."""

    rotation: float = 15.0
    """degrees, to either side"""
    flip: float = 0.5
    """probability of a mirror image, left for right"""
    vertical_flip: float = 0.0
    """probability of upside down; off, since a shadow always lies below its lesion"""
    zoom: float = 0.15
    """largest change of scale: 0.15 draws from 0.85 to 1.15"""
    brightness: float = 0.1
    """largest relative change"""
    contrast: float = 0.1
    """largest relative change"""

    def __post_init__(self) -> None:
        check(0 <= self.rotation <= 180, f"augment.rotation is {self.rotation}; it must lie between 0 and 180 degrees")
        for name in ("flip", "vertical_flip"):
            check(
                0 <= getattr(self, name) <= 1,
                f"augment.{name} is {getattr(self, name)}; a probability lies between 0 and 1",
            )
        for name in ("zoom", "brightness", "contrast"):
            check(
                0 <= getattr(self, name) < 1,
                f"augment.{name} is {getattr(self, name)}; it must be at least 0 and below 1",
            )


@dataclass(frozen=True)
class Model:
    """The network that is fine-tuned."""

    arch: str = "resnet101"
    """a ResNet of torchvision by its name there"""
    weights: str = "imagenet"
    """imagenet, none, or the path or URL of a state_dict"""


@dataclass(frozen=True)
class Optimizer:
    """AdamW, with a linear warm-up and a cosine decay over the whole run."""

    lr: float = 3e-4
    """highest learning rate"""
    weight_decay: float = 0.01
    warmup: float = 0.1
    """share of the run's steps in which the learning rate rises from 0"""

    def __post_init__(self) -> None:
        check(self.lr > 0, f"optimizer.lr is {self.lr}; it must be above 0")
        check(self.weight_decay >= 0, f"optimizer.weight_decay is {self.weight_decay}; it must be at least 0")
        check(0 <= self.warmup < 1, f"optimizer.warmup is {self.warmup}; it must be at least 0 and below 1")


@dataclass(frozen=True)
class EarlyStopping:
    """When to stop before the last epoch, and which epoch's weights are the result."""

    metric: Literal["val_loss", "val_accuracy", "val_macro_f1"] = "val_loss"
    """what decides which epoch is best"""
    patience: int = 8
    """epochs without an improvement before the run stops"""
    min_delta: float = 0.0
    """a smaller improvement than this does not count"""

    def __post_init__(self) -> None:
        check(self.patience >= 1, f"early_stopping.patience is {self.patience}; it must be at least 1")
        check(self.min_delta >= 0, f"early_stopping.min_delta is {self.min_delta}; it must be at least 0")


@dataclass(frozen=True)
class Loop:
    """The training loop and where it runs."""

    epochs: int = 30
    batch_size: int = 32
    """images in one step, over all workers together"""
    workers: int = 1
    """processes that train together, one GPU each where there are GPUs"""
    device: Device = "auto"
    """auto takes cuda where the cluster has a GPU"""
    precision: Precision = "auto"
    """auto takes bf16 autocast where the hardware has it"""
    seed: int = 0
    """the same seed, data and machine give the same run"""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "workers"):
            check(getattr(self, name) >= 1, f"train.{name} is {getattr(self, name)}; it must be at least 1")
        check(0 <= self.seed < 2**32, f"train.seed is {self.seed}; it must be at least 0 and below 2**32")
        check(
            self.batch_size >= 2 * self.workers,
            f"train.batch_size is {self.batch_size} for {self.workers} workers; give each at least 2 images, since "
            "batch normalisation needs more than one",
        )


@dataclass(frozen=True)
class Tracking:
    """Weights & Biases. The key itself comes from WANDB_API_KEY or `wandb login`, never from an option."""

    mode: Literal["auto", "online", "offline", "disabled"] = "auto"
    """auto is online with a key and disabled without one"""
    project: str = "overlay"
    entity: str | None = None
    """team or user; W&B's own default where it is not given"""
    name: str | None = None
    """name of the run; the folder's name where it is not given"""


@dataclass(frozen=True)
class Train:
    """Fine-tune a pretrained network on a prepared dataset; the same command goes on where it stopped."""

    dataset: str
    """a prepared dataset, or a folder that `overlay prepare` would take"""
    out: str
    """folder of the run, and where it resumes from"""
    input: Input = field(default_factory=Input)
    augment: Augment = field(default_factory=Augment)
    model: Model = field(default_factory=Model)
    optimizer: Optimizer = field(default_factory=Optimizer)
    early_stopping: EarlyStopping = field(default_factory=EarlyStopping)
    train: Loop = field(default_factory=Loop)
    tracking: Tracking = field(default_factory=Tracking)
