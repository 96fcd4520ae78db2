"""Pretrained weights that training starts from: torchvision's, of a file, or of a URL."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from overlay.errors import RequestError, UnsupportedModel, one_line
from overlay.models.light_torchvision import torchvision
from overlay.models.model_file import read_state
from overlay.models.network import IMAGENET_MEAN, IMAGENET_STD, StateDict, create_network, head_name, without_memory
from overlay.models.safe_load import Weight, download_failure, local_weights, read_tensors
from overlay.models.torchvision_weights import rename_old_keys, skeleton
from overlay.models.weight_matching import difference, match_backbone

_LISTED = 4


@dataclass(frozen=True)
class Weights:
    """Pretrained weights, and the statistics of the pixels that they were trained on (RGB, in 0..1)."""

    state: StateDict | None
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD


def load_pretrained(arch: str, weights: str) -> Weights:
    """Load pretrained weights for a network, and print how many there are.

    ``weights`` is "imagenet" (torchvision's default for this network), "none", or the path or URL of a state_dict, bare
    or as other programs save it; its names may have a prefix, or numbers in place of the network's parts.

    Raises:
        RequestError: the download fails, the file does not exist or holds no state_dict, or names or shapes, the head
            aside, are not those of the network.
    """
    skeleton(arch)  # refuses an unknown name
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
        return Weights(_fit(arch, state, weights), tuple(preset.mean), tuple(preset.std))
    with local_weights(weights) as file:
        state = read_state(file, weights)
        fitted = _fit(arch, state, weights)
    card: dict[str, Any] = getattr(state, "overlay", {})
    return Weights(fitted, tuple(card.get("mean", IMAGENET_MEAN)), tuple(card.get("std", IMAGENET_STD)))


def initialise_backbone(network: nn.Module, weights: Weights) -> None:
    """Load pretrained weights into a network, strictly except for its head, whose outputs are other classes."""
    if weights.state is not None:
        head = f"{head_name(network)}."
        own = network.state_dict()
        body = {name: tensor for name, tensor in weights.state.items() if not name.startswith(head)}
        whole = OrderedDict({**own, **body})
        whole._metadata = own._metadata  # type: ignore[attr-defined]  # without which MNASNet's loader fails
        network.load_state_dict(whole)


def _fit(arch: str, given: Mapping[str, Weight], where: str) -> StateDict:
    """Return the weights of a network's body by their names of today, in its order and its types."""
    state = rename_old_keys(given)
    try:
        match = match_backbone(state, [arch]) or match_backbone(state, [arch], trunk_only=True)
    except UnsupportedModel as error:
        raise RequestError(f"the weights at {where} can't be used: it {error}") from error
    if match is None:
        raise RequestError(
            f"the weights at {where} don't fit {difference(state, [arch])}; choose the architecture that they were "
            "made with"
        )
    if strange := match.within_body:
        raise RequestError(
            f"the weights at {where} don't fit {arch}: {strange[0]} is {tuple(state[strange[0]].shape)} there and not "
            "known in the network; choose the architecture that they were made with"
        )
    try:
        read = read_tensors({name: state[there] for name, there in match.body.items()})
    except Exception as error:  # damaged files raise whatever reading meets
        raise RequestError(f"the weights at {where} are damaged ({one_line(error)}); copy them again") from error
    with without_memory():
        types = {name: tensor.dtype for name, tensor in create_network(arch, 1).state_dict().items()}
    body = skeleton(arch).body
    missing = [name for name in body if name not in read]
    loaded = f"{len(body) - len(missing)} of {len(body)} tensors of {arch}, its head aside"
    random = f"; random, as the file has none: {_listed(missing)}" if missing else ""
    left_out = f"; left out: {_listed(match.rest)}" if match.rest else ""
    print(f"{where}: loaded {loaded}{random}{left_out}")
    return OrderedDict((name, read[name].to(dtype)) for name, dtype in types.items() if name in read)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
