"""The optimizer of a run and its learning rate."""

from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR

from overlay.config import Optimizer


def adamw(network: nn.Module, config: Optimizer) -> AdamW:
    """Return AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101); norms and biases decay too, as torch does it."""
    return AdamW(network.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True)


def warmup_then_cosine(optimizer: AdamW, config: Optimizer, steps: int) -> SequentialLR:
    """Return a schedule, advanced once a step: a linear rise over ``config.warmup`` of the steps, a cosine to 0 after.

    The cosine is that of Loshchilov & Hutter 2017 (arXiv:1608.03983), without restarts.
    """
    rise = max(1, round(config.warmup * steps))
    warmup = LinearLR(optimizer, start_factor=1 / (rise + 1), total_iters=rise)
    cosine = CosineAnnealingLR(optimizer, T_max=max(1, steps - rise))
    return SequentialLR(optimizer, [warmup, cosine], milestones=[rise])
