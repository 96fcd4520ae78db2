"""Weights of torchvision's classification networks: old names of their keys, skeletons, and strict loading."""

import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from overlay.models import heads
from overlay.models.light_torchvision import torchvision
from overlay.models.network import StateDict, architectures, create_network, head_name, without_memory
from overlay.models.safe_load import Weight

Shape = tuple[int, ...]

FIRST_WEIGHTS = {
    "conv1.weight": ("resnet", "resnext", "wide_resnet"),
    "features.conv0.weight": ("densenet",),
    "features.0.weight": ("vgg", "alexnet"),
    "features.0.0.weight": ("efficientnet", "mobilenet", "convnext", "swin"),
    "conv1.0.weight": ("shufflenet",),
    "layers.0.weight": ("mnasnet",),
    "class_token": ("vit",),
    "stem.0.0.weight": ("maxvit",),
}
"""first weight of a network -> its families, by what their names start with"""
# torchvision's own loader of vision transformers renames these where the file says that it is old; a file of
# model.state_dict() that went through a plain dictionary doesn't.
_OLD_MLP = re.compile(r"^(.*encoder_layer_\d+\.mlp)\.linear_([12])\.(weight|bias)$")


@dataclass(frozen=True)
class Skeleton:
    """Names and shapes of the weights of a network, without memory."""

    arch: str
    body: dict[str, Shape]
    """all but the last layer and the counters of batch normalisation"""
    head: str
    """name of the last layer"""
    features: int
    """inputs of the last layer"""
    bias: bool
    """whether the last layer has a bias"""
    children: tuple[str, ...]
    """names of the network's direct parts, in their order"""

    @property
    def root(self) -> str:
        """Direct part that the last layer is in, or is."""
        return self.head.partition(".")[0]

    @property
    def trunk(self) -> dict[str, Shape]:
        """Names and shapes of all but the part that the last layer is in."""
        return {name: shape for name, shape in self.body.items() if not name.startswith(f"{self.root}.")}


class _Captured:
    """Both sides of torchvision's loader: weights that it asks for, and a network that it hands them to."""

    def __init__(self, state: dict[str, Any]) -> None:
        self.state = state

    def get_state_dict(self, **_: object) -> dict[str, Any]:
        return self.state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.state = state


def rename_old_keys(state: Mapping[str, Weight]) -> dict[str, Weight]:
    """Return a state_dict with the names of today, where it has those of older versions of torchvision.

    DenseNet's (``denselayer1.norm.1.weight``) are renamed by torchvision's own function, and the two layers of a vision
    transformer's MLP (``mlp.linear_1.weight``) as by torchvision's own loader.
    """
    captured = _Captured(dict(state))
    torchvision.models.densenet._load_state_dict(captured, captured, progress=False)
    renamed = {}
    for name, tensor in captured.state.items():
        old = _OLD_MLP.match(name)
        renamed[f"{old[1]}.{3 * int(old[2]) - 3}.{old[3]}" if old else name] = tensor
    return renamed


def family(first: str) -> list[str]:
    """Return the architectures of the families that start with this weight."""
    return [arch for arch in architectures() if arch.startswith(FIRST_WEIGHTS[first])]


@cache
def skeleton(arch: str) -> Skeleton:
    """Return the skeleton of a network of `architectures`."""
    with without_memory():
        network = create_network(arch, 1)
    head = head_name(network)
    body = {
        name: tuple(tensor.shape)
        for name, tensor in network.state_dict().items()
        if not name.startswith(f"{head}.") and not is_counter(name)
    }
    last = network.get_submodule(head)
    assert isinstance(last, nn.Linear)
    children = tuple(name for name, _ in network.named_children())
    return Skeleton(arch, body, head, last.in_features, last.bias is not None, children)


def empty_network(arch: str, outputs: int, head: tuple[str, ...]) -> nn.Module:
    """Build torchvision's network without memory for weights, with the layers of ``head`` where there are any.

    They stand in place of the part that the last layer is in: ``fc`` of a ResNet, the whole ``classifier`` of a VGG.

    Raises:
        RequestError: a layer is not known, or has arguments that it can't have.
    """
    with without_memory():
        network = create_network(arch, outputs)
        if head:
            setattr(network, head_name(network).partition(".")[0], heads.build_head(head))
    return network


def fill_network(network: nn.Module, state: Mapping[str, Tensor]) -> StateDict:
    """Load weights strictly into a network of `empty_network`, and return them in its order and its types.

    Counters of batch normalisation may be missing, as in files from before torch 0.4.1; nothing depends on them.

    Raises:
        RuntimeError: names or shapes are not those of the network.
    """
    known = network.state_dict()
    whole: StateDict = OrderedDict()
    for name, tensor in known.items():
        if name in state:
            whole[name] = state[name].to(tensor.dtype)
        elif is_counter(name):
            whole[name] = torch.zeros((), dtype=tensor.dtype)
    whole |= {name: tensor for name, tensor in state.items() if name not in known}
    # Versions of the layers, without which MNASNet's loader fails; the names are today's by now.
    whole._metadata = known._metadata  # type: ignore[attr-defined]
    network.load_state_dict(whole, assign=True)
    loaded: StateDict = network.state_dict()  # type: ignore[assignment]
    return loaded


def is_counter(name: str) -> bool:
    """Return whether a weight is the counter of a batch normalisation."""
    return name.endswith("num_batches_tracked")
