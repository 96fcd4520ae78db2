"""Custom classification heads: several layers in place of a network's own, written as text and built from it.

A model card names the layers as torch does, ``Linear(2048, 256)``, ``ReLU()``, ``Dropout(0.4)``, ``Linear(256, 3)``.
"""

import ast
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from overlay.errors import RequestError, UnsupportedModel

# The attributes are the arguments of the layer's constructor, in their order.
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
BY_NAME = {kind.__name__: kind for kind in _ATTRIBUTES}
"""layers that a head may have"""


def describe_head(kind: type[nn.Module], attributes: Mapping[str, Any]) -> str:
    """Write a layer of ``BY_NAME`` as text; ``attributes`` are those of its object, and ``bias`` whether it has one.

    Raises:
        UnsupportedModel: an attribute that is an argument of the layer is neither a number nor a text.
    """
    values = [attributes.get(name) for name in _ATTRIBUTES[kind]]
    if not all(isinstance(value, int | float | str) for value in values):
        raise UnsupportedModel(
            f"has a layer {kind.__name__} in its head with the arguments {values}; save a state_dict instead"
        )
    if kind is nn.Linear and not attributes.get("bias", True):
        values.append(False)
    return f"{kind.__name__}({', '.join(map(repr, values))})"


def build_head(layers: Sequence[str]) -> nn.Sequential:
    """Build the layers of a head that `describe_head` wrote.

    Raises:
        RequestError: one of them is not in ``BY_NAME``, or has arguments that it can't have.
    """
    built = []
    for text in layers:
        name, _, arguments = text.removesuffix(")").partition("(")
        if name not in BY_NAME:
            raise RequestError(f"the model's head has a layer {text[:60]}; known are {', '.join(BY_NAME)}")
        try:
            built.append(BY_NAME[name](*ast.literal_eval(f"({arguments},)" if arguments else "()")))
        except Exception as error:  # text of a file raises whatever the layer's constructor meets
            raise RequestError(f"the model's head has a layer {text[:60]}, which can't be built") from error
    return nn.Sequential(*built)
