"""Pretrained weights that training starts from: torchvision's, of a file, or of a URL."""

from dataclasses import dataclass
from typing import Any

import torch
import torchvision
from torch import nn

from overlay.errors import RequestError
from overlay.models.model_file import read_state
from overlay.models.network import IMAGENET_MEAN, IMAGENET_STD, StateDict, create_network, head_name
from overlay.models.safe_load import download_failure


@dataclass(frozen=True)
class Weights:
    """Pretrained weights, and the statistics of the pixels that they were trained on (RGB, in 0..1)."""

    state: StateDict | None
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD


def load_pretrained(arch: str, weights: str) -> Weights:
    """Load pretrained weights for a network.

    ``weights`` is "imagenet" (torchvision's default for this network), "none", or the path or URL of a state_dict.

    Raises:
        RequestError: the download fails, the file does not exist or holds no state_dict, or names or shapes are not
            those of the network.
    """
    with torch.device("meta"):  # only names and shapes are needed
        skeleton = create_network(arch, classes=1000)
    if weights == "none":
        return Weights(state=None)
    if weights == "imagenet":
        chosen = torchvision.models.get_model_weights(arch).DEFAULT
        try:
            state = chosen.get_state_dict(progress=False, check_hash=True, weights_only=True)
        except Exception as error:  # a damaged file in torch's cache raises whatever the unpickler meets
            raise RequestError(
                f"the imagenet weights of {arch} can't be downloaded ({download_failure(error)}); connect to the "
                "network, give a file with --model.weights PATH, or start from random weights with --model.weights none"
            ) from error
        preset = chosen.transforms()
        return Weights(state, tuple(preset.mean), tuple(preset.std))
    state = read_state(weights)
    _check_fit(skeleton, state, arch, weights)
    card: dict[str, Any] = getattr(state, "overlay", {})
    return Weights(state, tuple(card.get("mean", IMAGENET_MEAN)), tuple(card.get("std", IMAGENET_STD)))


def initialise_backbone(network: nn.Module, weights: Weights) -> None:
    """Load pretrained weights into a network, except into its head, whose outputs are other classes."""
    if weights.state is not None:
        head = f"{head_name(network)}."
        body = {name: tensor for name, tensor in weights.state.items() if not name.startswith(head)}
        network.load_state_dict(body, strict=False)


def _check_fit(network: nn.Module, state: StateDict, arch: str, where: str) -> None:
    """Refuse weights whose names or shapes, the head aside, are not those of the network."""
    head = f"{head_name(network)}."
    expected = {n: tuple(t.shape) for n, t in network.state_dict().items() if not n.startswith(head)}
    given = {n: tuple(t.shape) for n, t in state.items() if not n.startswith(head)}
    for name in [*expected, *given]:
        # Files from before torch 0.4.1 lack the counter, and nothing depends on it.
        if expected.get(name) != given.get(name) and not name.endswith("num_batches_tracked"):
            raise RequestError(
                f"the weights at {where} don't fit {arch}: {name} is {given.get(name, 'missing')} there and "
                f"{expected.get(name, 'not known')} in the network; choose the architecture that they were made with"
            )
