"""Options of an inference on Ray, which evaluate, predict and train derive from their own."""

from dataclasses import dataclass, field
from typing import Literal

from overlay.config.cluster import ClusterOptions
from overlay.config.common import EngineKind, Precision, check, check_engine


@dataclass(frozen=True)
class InferenceOptions:
    """Engine, batch size and model actors of an inference."""

    device: Literal["cpu", "cuda"]
    precision: Precision = "auto"
    batch_size: int = 32
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
        check(self.batch_size >= 1, f"batch_size is {self.batch_size}; it must be at least 1")
        check(self.actors is None or self.actors >= 1, f"actors is {self.actors}; it must be at least 1")
        check_engine(self.kind, self.precision)
