"""Options of an inference on Ray, which evaluate, predict and train derive from their own."""

from dataclasses import dataclass, field
from typing import Literal

from overlay.config.cluster import ClusterOptions
from overlay.config.common import BatchSize, EngineKind, Precision, check, check_batch_size, check_engine


def rows_in_batch(batch_size: BatchSize, device: Literal["cpu", "cuda"]) -> int:
    """Return the number of images that an engine is given at a time; where ``batch_size`` is auto, by the device.

    On a GPU these may be several forward passes, whose size the engine chooses.
    """
    if batch_size == "auto":
        return 512 if device == "cuda" else 32
    return batch_size


@dataclass(frozen=True)
class InferenceOptions:
    """Engine, batch size and model actors of an inference."""

    device: Literal["cpu", "cuda"]
    precision: Precision = "auto"
    batch_size: BatchSize = 32
    """images in one forward pass of an actor"""
    actors: int | None = None
    """processes that hold the model; where it is None, one for each GPU, or for each node on CPUs"""
    kind: EngineKind = "torch"
    flips: bool = False
    """test-time augmentation: average the probabilities of an image and of its horizontal flip"""
    embeddings: bool = False
    """add the column ``embedding``"""
    cluster: ClusterOptions = field(default_factory=ClusterOptions)

    def __post_init__(self) -> None:
        check_batch_size(self.batch_size)
        check(self.actors is None or self.actors >= 1, f"actors is {self.actors}; it must be at least 1")
        check_engine(self.kind, self.precision)

    @property
    def rows(self) -> int:
        """Number of images that an actor is given at a time."""
        return rows_in_batch(self.batch_size, self.device)
