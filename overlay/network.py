"""The network: torchvision's, with a head for our classes, and pixels as it takes them."""

from collections import OrderedDict

import torchvision
from torch import Tensor, nn

from overlay.errors import RequestError

StateDict = OrderedDict[str, Tensor]


def architectures() -> list[str]:
    """Return the names of torchvision's ResNets."""
    return sorted(n for n in torchvision.models.list_models(module=torchvision.models) if "resne" in n)


def build(arch: str, classes: int) -> nn.Module:
    """Return torchvision's network ``arch`` with random weights and a head of ``classes`` outputs.

    It takes normalised images (n, 3, size, size) and gives logits (n, classes).

    Raises:
        RequestError: no ResNet of torchvision has this name.
    """
    if arch not in architectures():
        raise RequestError(f"model.arch is {arch!r}; choose one of {', '.join(architectures())}")
    network: nn.Module = torchvision.models.get_model(arch, weights=None, num_classes=classes)
    return network


def normalise(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Turn pixels uint8 (n, height, width, 3) into normalised float32 (n, 3, height, width), channels last in memory.

    ``mean`` and ``std``, (3,) in 0..1, lie on the device of the images.
    """
    return ((images.float() / 255 - mean) / std).permute(0, 3, 1, 2)
