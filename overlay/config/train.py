"""Options of `overlay train`."""

import re
from dataclasses import dataclass, field
from typing import Literal

from overlay.config.calibration import Calibration
from overlay.config.cluster import ClusterOptions
from overlay.config.common import Device, LogFormat, Place, ResizeRule, Tracking, WeightsSource, check
from overlay.config.optimization import EarlyStopping, Loss, Optimizer

TrainingPrecision = Literal["auto", "bf16", "fp16", "fp32"]


@dataclass(frozen=True)
class Input:
    """Input of the model."""

    size: int = 224
    """side of the square input in pixels"""
    resize: ResizeRule = "squash"
    """squash to the square, pad to it with black, or crop its centre out of size * 256 / 224"""

    def __post_init__(self) -> None:
        check(32 <= self.size <= 2048, f"input.size is {self.size}; it must lie between 32 and 2048")


@dataclass(frozen=True)
class Augment:
    """Data augmentation: random changes to each training image, drawn anew in each epoch."""

    rotation: float = 15.0
    """largest rotation in degrees, to either side"""
    flip: float = 0.5
    """probability of a horizontal flip"""
    vertical_flip: float = 0.0
    """probability of a vertical flip; 0 since an acoustic shadow always lies below its lesion"""
    zoom: float = 0.15
    """largest change of scale: 0.15 draws from 0.85 to 1.15"""
    brightness: float = 0.1
    """largest relative change of brightness"""
    contrast: float = 0.1
    """largest relative change of contrast"""
    mixup: float = 0.0
    """alpha of mixup, which blends each image with another of its batch; 0.2 is usual, 0 disables it"""
    cutmix: float = 0.0
    """alpha of cutmix, which pastes a box of another image of the batch; 1 is usual, 0 disables it. With mixup, each
    batch gets one of the two, with equal probability"""

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
    """Network, pretrained weights and frozen layers."""

    arch: str = "resnet101"
    """name of a ResNet in torchvision, or of another of its classification networks with a linear head"""
    weights: WeightsSource = "imagenet"
    """pretrained weights: imagenet, none, or the path or URL (http, https, s3, gs) of a state_dict"""
    dropout: float = 0.0
    """dropout probability of the head's inputs, besides any dropout of the network's own"""
    freeze: Literal["none", "stem", "layer1", "layer2", "layer3", "backbone"] = "none"
    """layers that keep their pretrained weights: none, a ResNet from its stem up to this stage, or all but the head"""
    unfreeze_every: int | None = None
    """gradual unfreezing: epochs after which one more stage is trained, from the head down; with model.freeze"""
    freeze_norm: bool = False
    """freeze the statistics, weights and biases of all batch normalisation"""

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
class Loop:
    """Training loop, its workers and their hardware."""

    epochs: int = 30
    batch_size: int | Literal["auto"] = 32
    """images in one step of the optimizer, over all workers together; auto is the largest power of two that fits into
    the GPU's memory, and 32 on CPUs"""
    accumulate: int = 1
    """gradient accumulation: parts that each worker's share of a batch is computed in, one after the other, to save
    memory"""
    workers: int | str = 1
    """data-parallel workers, one GPU each where there are GPUs; 2..8 is elastic: it starts with the workers that the
    cluster has room for, and grows and shrinks with the cluster"""
    device: Device = "auto"
    """auto is cuda where the cluster has a GPU"""
    precision: TrainingPrecision = "auto"
    """auto is bf16 autocast where the hardware has it, else fp32; fp16 scales the loss"""
    compile: bool = False
    """compile the network with torch.compile: a slower start and faster steps, mostly on GPUs"""
    sync_batch_norm: bool = False
    """synchronise batch normalisation over all workers, on GPUs; else each worker has its own statistics"""
    ema: float | None = None
    """decay of an exponential moving average of the weights, such as 0.999; the average is validated and saved"""
    balanced: bool = False
    """class-balanced sampling: images of rare classes are drawn several times an epoch"""
    shuffle_window: int = 2048
    """images in each worker's shuffle buffer, where a dataset is too large for the cluster's memory"""
    checkpoint_steps: int = 200
    """steps between two checkpoints; another is written after each epoch"""
    dry_run: int = 0
    """run only this many steps, with validation and checkpoint, and print how much memory they took"""
    seed: int = 0
    """random seed; on a CPU, the same seed, data, workers and machine give the same run"""
    deterministic: bool = False
    """use only deterministic algorithms, so that this holds on GPUs, too; slower, and an error where torch has none"""

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
        """Smallest number of workers that a run starts with."""
        return int(str(self.workers).partition("..")[0])

    @property
    def most_workers(self) -> int:
        """Largest number of workers."""
        return int(str(self.workers).rpartition("..")[2])


def check_share(batch: int, workers: int, accumulate: int) -> None:
    """Check that each worker has at least two images in a forward pass, which batch normalisation needs.

    Raises:
        RequestError: ``batch`` is below 2 * workers * accumulate.
    """
    check(
        batch >= 2 * workers * accumulate,
        f"batches of {batch} images leave {workers} workers fewer than 2 at a time (train.accumulate is {accumulate}), "
        "and batch normalisation needs more than one; choose a larger train.batch_size, or fewer workers or parts",
    )


@dataclass(frozen=True)
class TrainingOptions:
    """Options that `overlay train` and `overlay compare` share."""

    dataset: Place
    """a prepared dataset; for train also a folder that `overlay prepare` would take"""
    out: Place
    """folder of the run, or of the comparison, on a disk or in a bucket; one that is there is resumed"""
    input: Input = field(default_factory=Input)
    augment: Augment = field(default_factory=Augment)
    model: Model = field(default_factory=Model)
    optimizer: Optimizer = field(default_factory=Optimizer)
    loss: Loss = field(default_factory=Loss)
    early_stopping: EarlyStopping = field(default_factory=EarlyStopping)
    train: Loop = field(default_factory=Loop)
    calibration: Calibration = field(default_factory=Calibration)
    tracking: Tracking = field(default_factory=Tracking)
    cluster: ClusterOptions = field(default_factory=ClusterOptions)
    log_format: LogFormat = "text"
    """text, or json: each printed line, and each line of overlay.log in the output folder, is a JSON object"""

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
        check(
            self.train.batch_size != "auto" or self.cluster.gpus_per_worker >= 1,
            f"train.batch_size is auto and cluster.gpus_per_worker is {self.cluster.gpus_per_worker}; auto fills a "
            "whole GPU, so give a number",
        )


@dataclass(frozen=True)
class Train(TrainingOptions):
    """Fine-tune a pretrained network on a prepared dataset; the same command resumes a run that was stopped."""

    fold: int | None = None
    """run of the cross-validation: tests on this fold and validates on the next, of a dataset prepared with
    --split.folds; counted from 0"""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.fold is None or self.fold >= 0, f"fold is {self.fold}; it must be at least 0")
