"""Heads of several layers, as notebooks put them in place of a ResNet's last layer: written as text, and built again.

A model card names the layers as torch does, ``Linear(2048, 256)``, ``ReLU()``, ``Dropout(0.4)``, ``Linear(256, 3)``.
"""

import ast
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from overlay.errors import RequestError

# The attributes are the arguments with which the layer is made, in their order.
_ATTRIBUTES: dict[type[nn.Module], tuple[str, ...]] = {
    nn.Linear: ("in_features", "out_features"),
    nn.BatchNorm1d: ("num_features", "eps"),
    nn.Dropout: ("p",),
    nn.ReLU: (),
    nn.ReLU6: (),
    nn.LeakyReLU: ("negative_slope",),
    nn.ELU: ("alpha",),
    nn.GELU: ("approximate",),
    nn.SiLU: (),
    nn.Hardswish: (),
    nn.Tanh: (),
    nn.Sigmoid: (),
    nn.Flatten: ("start_dim", "end_dim"),
    nn.Identity: (),
}
_BY_NAME = {kind.__name__: kind for kind in _ATTRIBUTES}
LAYERS: tuple[type[nn.Module], ...] = tuple(_ATTRIBUTES)
"""what a head may be made of"""


def describe_head(kind: type[nn.Module], attributes: Mapping[str, Any]) -> str:
    """Write a layer of ``LAYERS`` as text; ``attributes`` are what its object holds.

    Raises:
        RequestError: one of the attributes is no number or text.
    """
    values = [attributes.get(name) for name in _ATTRIBUTES[kind]]
    if not all(isinstance(value, int | float | str) for value in values):
        raise RequestError(f"a layer {kind.__name__} of the head has the arguments {values}; save a state_dict instead")
    return f"{kind.__name__}({', '.join(map(repr, values))})"


def build_head(layers: Sequence[str]) -> nn.Sequential:
    """Build the layers that :func:`describe` wrote.

    Raises:
        RequestError: one of them is not known.
    """
    built = []
    for text in layers:
        name, _, arguments = text.removesuffix(")").partition("(")
        if name not in _BY_NAME:
            raise RequestError(f"the model's head has a layer {text}; known are {', '.join(_BY_NAME)}")
        built.append(_BY_NAME[name](*ast.literal_eval(f"({arguments},)" if arguments else "()")))
    return nn.Sequential(*built)
