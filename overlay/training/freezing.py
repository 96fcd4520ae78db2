"""Freezing and gradual unfreezing of pretrained stages.

A frozen stage keeps its pretrained weights to the bit, and its batch normalisation is in evaluation mode: it uses the
running statistics and does not update them. Dropout and stochastic depth stay as they are in training.
"""

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from overlay.config import Model
from overlay.models.network import parameter_stages


def trainable_parameters(network: nn.Module, config: Model, epoch: int) -> frozenset[str]:
    """Return the names of the parameters that are trained in an epoch, which counts from 0.

    After each ``config.unfreeze_every`` epochs one stage more is trained, from the head down (Howard & Ruder 2018,
    arXiv:1801.06146). ``config.freeze_norm`` freezes the weights and biases of all batch normalisation, as
    torchvision's FrozenBatchNorm2d does.
    """
    names = parameter_stages(network)
    order = list(names)
    if config.freeze == "none":
        frozen = 0
    elif config.freeze == "backbone":
        frozen = order.index("head")
    else:
        frozen = order.index(config.freeze) + 1
    if config.unfreeze_every is not None:
        frozen = max(0, frozen - epoch // config.unfreeze_every)
    norms = _norm_parameters(network) if config.freeze_norm else set()
    return frozenset(name for stage in order[frozen:] for name in names[stage]) - norms


def apply_freezing(network: nn.Module, config: Model, epoch: int) -> bool:
    """Set ``requires_grad`` to `trainable_parameters` of an epoch, counted from 0; return whether that changed any.

    DistributedDataParallel exchanges the gradients of those parameters alone that need them when it is built, so after
    a change the network must be wrapped again.
    """
    names = trainable_parameters(network, config, epoch)
    changed = False
    for name, parameter in network.named_parameters():
        if parameter.requires_grad != (name in names):
            parameter.requires_grad_(name in names)
            changed = True
    return changed


def set_train_mode(network: nn.Module) -> None:
    """Set a network, wrapped or not, to training mode, except batch normalisation whose parameters are frozen."""
    network.train()
    for module in network.modules():
        if isinstance(module, _BatchNorm) and not module.weight.requires_grad:
            module.eval()


def _norm_parameters(network: nn.Module) -> set[str]:
    return {
        f"{name}.{parameter}"
        for name, module in network.named_modules()
        if isinstance(module, _BatchNorm)
        for parameter, _ in module.named_parameters()
    }
