"""Bare state_dicts of ResNets: architecture by the shapes of the weights, and fit into torchvision's network."""

from collections import OrderedDict
from functools import cache

import torch
from torch import Tensor, nn

from overlay.errors import UnsupportedModel
from overlay.models import heads
from overlay.models.network import StateDict, architectures, create_network


def strip_prefix(state: StateDict) -> StateDict:
    """Remove the prefix that DataParallel, torch.compile or a class around the network put before every name."""
    first = min((name for name in state if name.endswith("conv1.weight")), key=len, default="conv1.weight")
    prefix = first.removesuffix("conv1.weight")
    whole = all(name.startswith(prefix) for name in state)
    return OrderedDict((name.removeprefix(prefix) if whole else name, tensor) for name, tensor in state.items())


def rename_plain_head(state: StateDict) -> StateDict:
    """Rename the head of a bare state_dict as torchvision does, where it is one layer inside a Sequential.

    Raises:
        UnsupportedModel: the head has several layers.
    """
    inner = {name.rpartition(".")[0] for name in state if name.startswith("fc.")} - {"fc"}
    if len(inner) > 1:
        raise UnsupportedModel(
            f"has a head of several layers ({', '.join(sorted(inner))}), and weights alone don't say what lies "
            "between them; give the file of the whole model, as torch.save(model, ...) writes it"
        )
    only = f"{next(iter(inner), 'fc')}."
    return OrderedDict(
        (f"fc.{name.removeprefix(only)}" if name.startswith(only) else name, tensor) for name, tensor in state.items()
    )


def match_architecture(state: StateDict) -> str:
    """Return the ResNet of torchvision that has weights of these names and shapes, its head aside.

    Raises:
        UnsupportedModel: none has.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items() if _is_body(name)}
    arch = next((arch for arch, known in _resnets().items() if known == shapes), None)
    if arch is None:
        raise UnsupportedModel(
            f"holds weights but no card, and is no ResNet of torchvision (known are {', '.join(_resnets())}); "
            "give a model file that overlay train wrote, or a state_dict of one of these"
        )
    return arch


def output_count(state: StateDict, arch: str) -> int:
    """Return the number of outputs of a head called fc.

    Raises:
        UnsupportedModel: there is no such head, or it has one output.
    """
    last = [tensor for name, tensor in state.items() if name.startswith("fc.") and tensor.ndim == 2]
    if not last:
        raise UnsupportedModel(f"has no weights of a head called fc, as torchvision's {arch} has; give all weights")
    if len(last[-1]) < 2:
        raise UnsupportedModel("has one output, which has no softmax; give a model with an output for each class")
    return len(last[-1])


def skeleton_network(arch: str, outputs: int, head: tuple[str, ...]) -> nn.Module:
    """Build torchvision's network without memory for weights, with the layers of ``head`` where there are any."""
    with torch.device("meta"):
        network = create_network(arch, outputs)
        if head:
            network.fc = heads.build_head(head)
    return network


def complete_weights(state: StateDict, fresh: nn.Module) -> StateDict:
    """Return the weights of a state_dict that a network has, in its order and its types."""
    whole: StateDict = OrderedDict()
    for name, tensor in fresh.state_dict().items():
        if name in state:
            whole[name] = state[name].to(tensor.dtype)
        elif name.endswith("num_batches_tracked"):  # not in files from before torch 0.4.1, and nothing depends on it
            whole[name] = torch.tensor(0)
    return whole


def check_fit(whole: StateDict, state: StateDict, fresh: nn.Module, arch: str) -> None:
    """Check that a network has exactly these weights.

    Raises:
        UnsupportedModel: a weight is missing, unknown or of another shape.
    """
    known = fresh.state_dict()
    for name in [*known, *state]:
        given, expected = whole.get(name, state.get(name)), known.get(name)
        if given is None or expected is None or given.shape != expected.shape:
            raise UnsupportedModel(
                f"doesn't fit torchvision's {arch}: {name} is {_shape(given)} there and "
                f"{_shape(expected)} in the network; give a state_dict of torchvision's ResNet"
            )


@cache
def _resnets() -> dict[str, dict[str, tuple[int, ...]]]:
    """Return the names and shapes of the weights of torchvision's ResNets, without their heads."""
    with torch.device("meta"):
        states = {arch: create_network(arch, 1).state_dict() for arch in architectures() if "resne" in arch}
    return {
        arch: {name: tuple(tensor.shape) for name, tensor in state.items() if _is_body(name)}
        for arch, state in states.items()
    }


def _is_body(name: str) -> bool:
    return not name.startswith("fc.") and not name.endswith("num_batches_tracked")


def _shape(tensor: Tensor | None) -> str:
    return "missing" if tensor is None else str(tuple(tensor.shape))
