"""Optimizer (AdamW or SGD) with parameter groups: layer-wise learning rates and weight decay."""

from typing import TypedDict

from torch import nn
from torch.optim import SGD, AdamW
from torch.optim import Optimizer as TorchOptimizer

from overlay.config import Optimizer
from overlay.models.network import parameter_stages


class ParameterGroup(TypedDict):
    """Parameters that share a learning rate and a weight decay, as torch's optimizers take them."""

    params: list[nn.Parameter]
    lr: float
    weight_decay: float


def build_optimizer(network: nn.Module, config: Optimizer) -> TorchOptimizer:
    """Return AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101), or SGD with Nesterov's momentum.

    It holds all parameters, frozen ones too: those have no gradient, so it skips them, weight decay included, until
    they are trained.
    """
    groups = parameter_groups(network, config)
    if config.name == "sgd":
        # Not fused: that fails on a group in which only some parameters have a momentum, after an unfreezing.
        return SGD(groups, momentum=0.9, nesterov=True)  # type: ignore[arg-type]
    return AdamW(groups, fused=True)  # type: ignore[arg-type]


def parameter_groups(network: nn.Module, config: Optimizer) -> list[ParameterGroup]:
    """Return the parameters by learning rate and weight decay.

    The head has ``config.lr``. With ``config.layer_decay`` a stage that lies n stages below it has that rate times
    layer_decay to the power of n (Clark et al. 2020, arXiv:2003.10555; Bao et al. 2022, arXiv:2106.08254). Parameters
    of one dimension, which are biases and those of normalisation, don't decay, as in timm, unless the config says so.
    """
    parameters = dict(network.named_parameters())
    groups: dict[tuple[float, float], ParameterGroup] = {}
    for depth, names in enumerate(reversed(parameter_stages(network).values())):
        if config.layer_decay is not None:
            rate = config.lr * config.layer_decay**depth
        else:
            rate = config.lr if depth == 0 or config.backbone_lr is None else config.backbone_lr
        for name in names:
            decays = parameters[name].ndim > 1 or config.decay_norm_and_bias
            key = (rate, config.weight_decay if decays else 0.0)
            group = groups.setdefault(key, ParameterGroup(params=[], lr=key[0], weight_decay=key[1]))
            group["params"].append(parameters[name])
    return list(groups.values())
