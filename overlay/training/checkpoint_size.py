"""Estimate of the disk space that a training run's checkpoints and model file take."""

from overlay.config import TrainingOptions
from overlay.models.network import create_network, without_memory

_MOMENTS = {"adamw": 2, "sgd": 1}
"""optimizer -> tensors of a parameter's size that it keeps"""


def model_bytes(arch: str, classes: int) -> int:
    """Return the size of a network's weights and buffers in bytes, in float32."""
    with without_memory():
        network = create_network(arch, classes)
    return sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())


def checkpoint_bytes(config: TrainingOptions, classes: int) -> int:
    """Return the size of a checkpoint in bytes: training state and best epoch; frozen weights have no moments."""
    weights = model_bytes(config.model.arch, classes)
    moments = _MOMENTS[config.optimizer.name] if config.model.freeze == "none" else 0
    averages = 1 if config.train.ema else 0
    return weights * (1 + moments + averages + 1)


def run_bytes(config: TrainingOptions, classes: int, *, resumed: bool) -> int:
    """Return the bytes that a run needs, besides those it has: a checkpoint is written beside the one before it."""
    return checkpoint_bytes(config, classes) * (1 if resumed else 2) + model_bytes(config.model.arch, classes)
