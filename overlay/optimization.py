"""The optimizer of a run and its learning rate."""

import math

from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from overlay.config import Optimizer


def adamw(network: nn.Module, config: Optimizer) -> AdamW:
    """Return AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101); norms and biases decay too, as torch does it."""
    return AdamW(network.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True)


def warmup_then_cosine(optimizer: AdamW, config: Optimizer, steps: int) -> LambdaLR:
    """Return a schedule, advanced once a step: a linear rise over ``config.warmup`` of the steps, a cosine to 0 after.

    The cosine is that of Loshchilov & Hutter 2017 (arXiv:1608.03983), without restarts. The step after the rise has the
    full learning rate, and there always is one.
    """
    rise = min(round(config.warmup * steps), steps - 1)

    def share(step: int) -> float:
        if step < rise:
            return (step + 1) / (rise + 1)
        return (1 + math.cos(math.pi * (step - rise) / (steps - rise))) / 2

    return LambdaLR(optimizer, share)
