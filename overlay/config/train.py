"""The options of `overlay train`."""

import re
from dataclasses import dataclass, field
from typing import Literal

from overlay.config.common import Device, ResizeRule, Tracking, check

TrainingPrecision = Literal["auto", "bf16", "fp16", "fp32"]


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
    mixup: float = 0.0
    """alpha of mixup, which blends each image with another of its batch; 0.2 is usual, 0 is off"""
    cutmix: float = 0.0
    """alpha of cutmix, which pastes a box of another image of the batch; 1 is usual, 0 is off. With mixup, each batch
    gets one of the two, as a coin falls"""

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
        for name in ("mixup", "cutmix"):
            check(getattr(self, name) >= 0, f"augment.{name} is {getattr(self, name)}; it must be at least 0")


@dataclass(frozen=True)
class Model:
    """The network that is fine-tuned."""

    arch: str = "resnet101"
    """a ResNet of torchvision by its name there, or another of its classification networks with a linear head"""
    weights: str = "imagenet"
    """imagenet, none, or the path or URL of a state_dict"""
    dropout: float = 0.0
    """probability with which each input of the head is dropped, beside any dropout of the network's own"""
    freeze: Literal["none", "stem", "layer1", "layer2", "layer3", "backbone"] = "none"
    """what keeps its pretrained weights: nothing, a ResNet from its stem up to this stage, or all but the head"""
    unfreeze_every: int | None = None
    """epochs after which one stage more is trained, from the head down; with model.freeze"""
    freeze_norm: bool = False
    """keep the statistics, weights and biases of all batch normalisation as they are"""

    def __post_init__(self) -> None:
        check(0 <= self.dropout < 1, f"model.dropout is {self.dropout}; it must be at least 0 and below 1")
        check(
            self.freeze in ("none", "backbone") or self.has_stages,
            f"model.freeze is {self.freeze}, a stage of a ResNet, and model.arch is {self.arch}; give none or backbone",
        )
        check(
            self.freeze == "none" or self.weights != "none",
            f"model.freeze is {self.freeze} and model.weights is none, so random weights would never be trained; give "
            "weights, or freeze none",
        )
        check(
            self.unfreeze_every is None or self.unfreeze_every >= 1,
            f"model.unfreeze_every is {self.unfreeze_every}; it must be at least 1",
        )
        check(
            self.unfreeze_every is None or self.freeze != "none",
            f"model.unfreeze_every is {self.unfreeze_every} and model.freeze is none; say what is frozen at first",
        )

    @property
    def has_stages(self) -> bool:
        """Whether the network is a ResNet of some kind, whose stages are the stem and layer1 to layer4."""
        return "resne" in self.arch


@dataclass(frozen=True)
class Optimizer:
    """The optimizer, and the learning rate of each parameter at each step."""

    name: Literal["adamw", "sgd"] = "adamw"
    """sgd has a Nesterov momentum of 0.9; its learning rates are some 100 times those of adamw"""
    lr: float = 3e-4
    """highest learning rate"""
    backbone_lr: float | None = None
    """highest learning rate of all but the head; optimizer.lr where it is not given"""
    layer_decay: float | None = None
    """each stage of a ResNet learns at this share of the rate of the one above it; 0.65 to 0.9 is usual"""
    weight_decay: float = 0.01
    decay_norm_and_bias: bool = False
    """let the weight decay reach biases and the parameters of normalisation, too"""
    schedule: Literal["cosine", "onecycle", "step", "plateau", "constant"] = "cosine"
    """how the learning rate goes on after the warm-up; onecycle is Smith's, whose rise is a cosine too"""
    warmup: float = 0.1
    """share of the run's steps in which the learning rate rises from 0"""
    step_size: int = 10
    """epochs between two drops of the step schedule"""
    patience: int = 3
    """epochs without a lower val_loss that the plateau schedule bears before it drops"""
    gamma: float = 0.1
    """factor of a drop, for step and plateau"""
    clip_norm: float | None = None
    """largest norm of the gradient of all parameters together; a longer one is scaled down to it"""

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
    """Cross-entropy, and how it weighs classes."""

    label_smoothing: float = 0.0
    """share of the target that is spread evenly over all classes; 0.1 is usual"""
    class_weights: Literal["none", "balanced"] = "none"
    """balanced weighs each class by n / (classes * n of the class), so that rare ones count as much as frequent ones"""

    def __post_init__(self) -> None:
        check(
            0 <= self.label_smoothing < 1,
            f"loss.label_smoothing is {self.label_smoothing}; it must be at least 0 and below 1",
        )


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
    batch_size: int | Literal["auto"] = 32
    """images in one step of the optimizer, over all workers together; auto takes the largest power of two that fits
    into the GPU's memory, and 32 on CPUs"""
    accumulate: int = 1
    """parts that each worker's share of a batch is computed in, one after the other, to save memory"""
    workers: int | str = 1
    """processes that train together, one GPU each where there are GPUs; 2..8 begins with what there is, and grows and
    shrinks with the cluster"""
    device: Device = "auto"
    """auto takes cuda where the cluster has a GPU"""
    precision: TrainingPrecision = "auto"
    """auto takes bf16 autocast where the hardware has it; fp16 scales the loss"""
    compile: bool = False
    """compile the network with torch.compile: slow to start, faster from then on, mostly on GPUs"""
    sync_batch_norm: bool = False
    """batch statistics over all workers' images, on GPUs; else each worker has its own"""
    ema: float | None = None
    """decay of a moving average of the weights, such as 0.999, which is what is then validated and saved"""
    balanced: bool = False
    """draw the classes equally often: images of rare classes come several times an epoch"""
    shuffle_window: int = 2048
    """images that are shuffled together, where a dataset is too large for the cluster's memory"""
    checkpoint_steps: int = 200
    """steps between checkpoints; one is also written after each epoch"""
    dry_run: int = 0
    """only try so many steps, with all that belongs to a run, and say how much memory they took"""
    seed: int = 0
    """the same seed, data and machine give the same run"""

    def __post_init__(self) -> None:
        for name in ("epochs", "accumulate", "shuffle_window", "checkpoint_steps"):
            check(getattr(self, name) >= 1, f"train.{name} is {getattr(self, name)}; it must be at least 1")
        check(self.dry_run >= 0, f"train.dry_run is {self.dry_run}; it must be at least 0")
        check(0 <= self.seed < 2**32, f"train.seed is {self.seed}; it must be at least 0 and below 2**32")
        check(self.ema is None or 0 < self.ema < 1, f"train.ema is {self.ema}; it must lie between 0 and 1")
        written = re.fullmatch(r"(\d+)(?:\.\.(\d+))?", str(self.workers))
        right = written is not None and 1 <= int(written[1]) <= int(written[2] or written[1])
        check(right, f"train.workers is {self.workers}; give a number of at least 1, or two such as 2..8")
        if self.batch_size != "auto":
            check(self.batch_size >= 1, f"train.batch_size is {self.batch_size}; it must be at least 1")
            check_share(self.batch_size, self.most_workers, self.accumulate)

    @property
    def least_workers(self) -> int:
        """Workers that must be there before the run begins."""
        return int(str(self.workers).partition("..")[0])

    @property
    def most_workers(self) -> int:
        """Workers that there may be."""
        return int(str(self.workers).rpartition("..")[2])


def check_share(batch: int, workers: int, accumulate: int) -> None:
    """Refuse batches that leave a worker fewer than two images at a time.

    Raises:
        RequestError: they do.
    """
    check(
        batch >= 2 * workers * accumulate,
        f"batches of {batch} images leave {workers} workers fewer than 2 at a time (train.accumulate is {accumulate}), "
        "and batch normalisation needs more than one; choose a larger train.batch_size, or fewer workers or parts",
    )


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
    loss: Loss = field(default_factory=Loss)
    early_stopping: EarlyStopping = field(default_factory=EarlyStopping)
    train: Loop = field(default_factory=Loop)
    tracking: Tracking = field(default_factory=Tracking)

    def __post_init__(self) -> None:
        check(
            self.optimizer.layer_decay is None or self.model.has_stages,
            f"optimizer.layer_decay is {self.optimizer.layer_decay} and model.arch is {self.model.arch}, which is no "
            "ResNet; give optimizer.backbone_lr",
        )
        check(
            self.loss.class_weights == "none" or not self.train.balanced,
            f"loss.class_weights is {self.loss.class_weights} and train.balanced is true, which would make up "
            "for rare classes twice; give one of them",
        )
