"""Whole models of a pickle: tensors, layers of the head, and differences from torchvision's networks.

The objects are records (`overlay.models.inert_pickle`), so none of their methods can be called.
"""

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from overlay.errors import UnsupportedModel
from overlay.models import heads
from overlay.models.inert_pickle import Record
from overlay.models.safe_load import Weight
from overlay.models.visit_budget import VisitBudget

_DEEPEST = 12
# Attributes without influence on a network that is not trained, or that follow from the rest.
_IRRELEVANT = {
    *("training", "inplace", "momentum", "memory_efficient", "num_classes", "aux_logits", "transform_input"),
    *("dropout", "attention_dropout", "drop_rate", "stochastic_depth_prob", "representation_size"),
}
_RANDOM = {"Dropout", "Dropout2d", "StochasticDepth"}
# Names that torchvision has given to one class.
_RENAMED = dict.fromkeys(("ConvBNReLU", "ConvBNActivation", "ConvNormActivation"), "Conv2dNormActivation")


@dataclass(frozen=True)
class HeadLayer:
    """Layer of a head: its name in the state_dict, its class and its attributes."""

    name: str
    kind: str
    attributes: Mapping[str, Any]


def module_tensors(
    module: Record, prefix: str = "", depth: int = 0, budget: VisitBudget | None = None
) -> Iterator[tuple[str, Weight]]:
    """Yield the items of a module's state_dict.

    Raises:
        UnsupportedModel: its modules are nested more than 12 deep, or are more than can be looked at.
    """
    budget = budget or VisitBudget()
    if depth > _DEEPEST:
        raise UnsupportedModel(f"is no network of torchvision: its modules lie {depth} deep; give a state_dict")
    inner = module.attributes
    passing = inner.get("_non_persistent_buffers_set")
    hidden = passing if isinstance(passing, set) else set(getattr(passing, "args", ((),))[0] if passing else ())
    budget.spend(len(inner["_parameters"]) + len(inner["_buffers"]) + len(inner["_modules"]))
    for name, tensor in [*inner["_parameters"].items(), *inner["_buffers"].items()]:
        if isinstance(tensor, Weight) and name not in hidden:
            yield f"{prefix}{name}", tensor
    for name, child in inner["_modules"].items():
        if isinstance(child, Record):
            yield from module_tensors(child, f"{prefix}{name}.", depth + 1, budget)


def head_layers(module: Record | nn.Module, root: str) -> list[HeadLayer]:
    """Return the layers of a head in their order, those of nested Sequentials one after the other.

    A softmax at the end is left out: every network here gives logits, and the softmax of a log-softmax is the softmax.

    Raises:
        UnsupportedModel: there is no part of this name, or it does not end with a Linear layer.
    """
    layers = list(_layers(_attributes(module)["_modules"].get(root), root, 0, VisitBudget()))
    if layers and layers[-1].kind in ("Softmax", "LogSoftmax") and layers[-1].attributes.get("dim") in (1, -1, None):
        layers.pop()
    active = [layer.kind for layer in layers if layer.kind not in ("Dropout", "Identity", "Flatten")]
    if active[-1:] != ["Linear"]:
        ends = active[-1] if active else "nothing"
        raise UnsupportedModel(
            f"has a head that ends with {ends}; probabilities are the softmax of a Linear layer's outputs here"
        )
    return layers


def own_names(layers: list[HeadLayer], own: list[HeadLayer]) -> dict[str, str] | None:
    """Return which layer of torchvision's own head each layer of a head is: own name -> name; None for another head.

    The last layer may have other outputs; dropout, and flattening where torchvision's has none, change nothing.
    """
    flattens = any(layer.kind == "Flatten" for layer in own)
    left_out = {"Dropout", "Identity", *(() if flattens else ("Flatten",))}
    given, known = ([layer for layer in each if layer.kind not in left_out] for each in (layers, own))
    if [layer.kind for layer in given] != [layer.kind for layer in known]:
        return None
    for one, other in zip(given, known, strict=True):
        free = {"out_features"} if other is known[-1] else set()
        if _attribute_difference(one.attributes, other.attributes, free) or _has_bias(one) != _has_bias(other):
            return None
    return {other.name: one.name for one, other in zip(given, known, strict=True)}


def describe_layers(layers: list[HeadLayer]) -> tuple[str, ...]:
    """Write the layers of a head as `overlay.models.heads` reads them.

    Raises:
        UnsupportedModel: a layer is not known there, or has arguments that can't be written.
    """
    if strange := [layer.kind for layer in layers if layer.kind not in heads.BY_NAME]:
        known = ", ".join(heads.BY_NAME)
        raise UnsupportedModel(f"has a layer {strange[0]} in its head, which is not known there; known are {known}")
    return tuple(
        heads.describe_head(heads.BY_NAME[layer.kind], {**layer.attributes, "bias": _has_bias(layer)})
        for layer in layers
    )


def module_difference(module: object, fresh: nn.Module, root: str, prefix: str = "") -> str | None:
    """Return the first difference, weights aside, of a module from torchvision's: a stride, or another layer.

    None where there is none; the heads, which are the parts called ``root``, are not compared.
    """
    kind = module.kind if isinstance(module, Record) else type(module).__name__
    expected_kind = type(fresh).__name__
    if not isinstance(module, Record) or _RENAMED.get(kind, kind) != expected_kind:
        return f"{prefix.rstrip('.')} is {kind}, not {expected_kind}"
    free = {"p"} if expected_kind in _RANDOM else set()
    if found := _attribute_difference(module.attributes, vars(fresh), free):
        return f"{prefix}{found}"
    left_out = root if not prefix else None
    children = {name: child for name, child in module.attributes["_modules"].items() if name != left_out and child}
    known = {name: child for name, child in fresh.named_children() if name != left_out}
    if children.keys() != known.keys():
        return f"it has {', '.join(f'{prefix}{name}' for name in sorted(children.keys() ^ known.keys()))} beside or not"
    found_within = (module_difference(children[n], known[n], root, f"{prefix}{n}.") for n in known)
    return next(filter(None, found_within), None)


def head_weights(layers: list[HeadLayer], tensors: Mapping[str, Weight]) -> dict[str, Weight]:
    """Return the weights of a head with its layers numbered, as `overlay.models.heads.build_head` names them."""
    found: dict[str, Weight] = OrderedDict()
    for index, layer in enumerate(layers):
        inside = f"{layer.name}."
        found |= {f"{index}.{n.removeprefix(inside)}": t for n, t in tensors.items() if n.startswith(inside)}
    return found


def _layers(module: Any, name: str, depth: int, budget: VisitBudget) -> Iterator[HeadLayer]:  # noqa: ANN401
    if not isinstance(module, Record | nn.Module) or depth > _DEEPEST:
        raise UnsupportedModel(
            f"has no head called {name.partition('.')[0]}; give a state_dict of torchvision's network"
        )
    kind = module.kind if isinstance(module, Record) else type(module).__name__
    attributes = _attributes(module)
    if kind != "Sequential":
        yield HeadLayer(name, kind, attributes)
        return
    budget.spend(len(attributes["_modules"]))
    for inner, child in attributes["_modules"].items():
        yield from _layers(child, f"{name}.{inner}", depth + 1, budget)


def _attributes(module: Record | nn.Module) -> Mapping[str, Any]:
    return module.attributes if isinstance(module, Record) else vars(module)


def _attribute_difference(given: Mapping[str, Any], fresh: Mapping[str, Any], free: set[str]) -> str | None:
    for name, expected in fresh.items():
        plain = isinstance(expected, int | float | str | tuple) and not name.startswith("_")
        if plain and name not in _IRRELEVANT | free and given.get(name, expected) != expected:
            return f"{name} is {given[name]}, not {expected}"
    return None


def _has_bias(layer: HeadLayer) -> bool:
    return layer.attributes.get("_parameters", {}).get("bias") is not None
