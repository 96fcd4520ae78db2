"""Unpickled model objects: tensors, head layers and differences from torchvision, read without calling a method."""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from overlay.errors import UnsupportedModel
from overlay.models import heads
from overlay.models.network import StateDict

_DEEPEST = 10
# Attributes without influence on a network that is not trained, or that follow from the rest.
_IRRELEVANT = {"training", "inplace", "momentum"}


@dataclass(frozen=True)
class _Layer:
    """A layer of a head: its name in the state_dict, its class and its attributes."""

    name: str
    kind: type[nn.Module]
    attributes: dict[str, Any]


def module_tensors(module: nn.Module, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Tensor]]:
    """Yield the items of a module's state_dict.

    Raises:
        UnsupportedModel: its modules are nested more than 10 deep.
    """
    if depth > _DEEPEST:
        raise UnsupportedModel(f"is no ResNet: its modules lie {depth} deep in each other; give a state_dict")
    inner = vars(module)
    for name, tensor in [*inner["_parameters"].items(), *inner["_buffers"].items()]:
        if isinstance(tensor, Tensor):
            yield f"{prefix}{name}", tensor.detach()
    for name, child in inner["_modules"].items():
        yield from module_tensors(child, f"{prefix}{name}.", depth + 1)


def number_head(module: nn.Module, state: StateDict) -> tuple[tuple[str, ...], StateDict]:
    """Return the layers of a module's head as text, and the state with these numbered; none where one Linear is all.

    A softmax at the end is left out: every network here gives logits, and the softmax of a log-softmax is the softmax.

    Raises:
        UnsupportedModel: there is no head called fc, it has a layer that is not in `overlay.models.heads.LAYERS`, or
            it does not end with a Linear layer.
    """
    layers = list(_layers(vars(module)["_modules"].get("fc"), "fc"))
    if layers and layers[-1].kind in (nn.Softmax, nn.LogSoftmax) and layers[-1].attributes.get("dim") in (1, -1, None):
        layers.pop()
    if strange := [layer.kind.__name__ for layer in layers if layer.kind not in heads.LAYERS]:
        known = ", ".join(kind.__name__ for kind in heads.LAYERS)
        raise UnsupportedModel(f"has a layer {strange[0]} in its head, which is not known there; known are {known}")
    active = [layer.kind for layer in layers if layer.kind not in (nn.Dropout, nn.Identity, nn.Flatten)]
    if active[-1:] != [nn.Linear]:
        ends = active[-1].__name__ if active else "nothing"
        raise UnsupportedModel(
            f"has a head that ends with {ends}; probabilities are the softmax of a Linear layer's outputs here"
        )
    alone = active == [nn.Linear]
    renamed = {
        f"{layer.name}.": "fc." if alone and layer.kind is nn.Linear else f"fc.{index}."
        for index, layer in enumerate(layers)
    }
    body = OrderedDict((name, tensor) for name, tensor in state.items() if not name.startswith("fc."))
    for old, new in renamed.items():
        body |= {new + name.removeprefix(old): tensor for name, tensor in state.items() if name.startswith(old)}
    return () if alone else tuple(heads.describe_head(layer.kind, layer.attributes) for layer in layers), body


def module_difference(module: nn.Module, fresh: nn.Module, prefix: str = "") -> str | None:
    """Return the first difference, weights aside, of a module from torchvision's: a stride, or another layer.

    None where there is none; the heads are not compared.
    """
    if type(module) is not type(fresh):
        return f"{prefix.rstrip('.')} is {type(module).__name__}, not {type(fresh).__name__}"
    given = vars(module)
    for name, expected in vars(fresh).items():
        plain = isinstance(expected, int | float | str | tuple) and not name.startswith("_")
        if plain and name not in _IRRELEVANT and given.get(name, expected) != expected:
            return f"{prefix}{name} is {given[name]}, not {expected}"
    children = {name: child for name, child in given["_modules"].items() if f"{prefix}{name}" != "fc"}
    known = {name: child for name, child in fresh.named_children() if f"{prefix}{name}" != "fc"}
    if children.keys() != known.keys():
        return f"it has {', '.join(f'{prefix}{name}' for name in sorted(children.keys() ^ known.keys()))} beside or not"
    return next(filter(None, (module_difference(children[n], known[n], f"{prefix}{n}.") for n in known)), None)


def _layers(module: nn.Module | None, name: str, depth: int = 0) -> Iterator[_Layer]:
    """Yield the layers of a head, those of nested Sequentials one after the other."""
    if module is None or depth > _DEEPEST:
        raise UnsupportedModel("has no head called fc, as a ResNet has; give a state_dict of torchvision's ResNet")
    if type(module) is not nn.Sequential:
        yield _Layer(name, type(module), vars(module))
        return
    for inner, child in vars(module)["_modules"].items():
        yield from _layers(child, f"{name}.{inner}", depth + 1)
