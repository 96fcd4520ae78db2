"""Model files of other programs: a bare state_dict of a ResNet, or the pickle of a whole model, as notebooks write it.

A pickle can run anything while it is read, so `overlay.models.safe_load` lets through only the classes that a
torchvision ResNet is made of. Of the loaded objects no method is called either: their tensors and numbers are read, go
into a network that torchvision built, and the objects are dropped.
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from torch import nn

from overlay.config import Input, Legacy
from overlay.errors import UnsupportedModel
from overlay.models.legacy_module import module_difference, module_tensors, number_head
from overlay.models.legacy_weights import (
    check_fit,
    complete_weights,
    match_architecture,
    output_count,
    rename_plain_head,
    skeleton_network,
    strip_prefix,
)
from overlay.models.network import StateDict
from overlay.models.safe_load import is_state_dict

USUAL_CLASSES = ("benign", "malignant", "normal")
USUAL_INPUT = Input(size=224, resize="crop")
_WHOLE = ("model", "net", "network")
_STATES = ("model_state_dict", "state_dict", "model_state", "net_state_dict", "weights", *_WHOLE)
_NAMES = ("class_names", "classes", "labels", "class_to_idx", "idx_to_class")


@dataclass(frozen=True)
class LegacyModel:
    """Content of a model file of another program."""

    arch: str
    state: StateDict
    """of `overlay.models.network.create_network`, or with ``fc.0``, ``fc.1``, ... where the head has several layers"""
    head: tuple[str, ...]
    """layers of a head of several layers, as `overlay.models.heads` writes them"""
    outputs: int
    classes: tuple[str, ...] | None
    """class names in the order of the outputs; None where the file has none"""


@dataclass(frozen=True)
class LegacyDescription:
    """Classes and input of a model file of another program, from the options and by convention."""

    classes: tuple[str, ...]
    input: Input
    note: str
    """the conventions that were applied, to follow the file's name"""


def read_legacy(content: object) -> LegacyModel | None:
    """Read the objects that ``torch.load`` gave; None where they hold neither a model nor a state_dict.

    Raises:
        UnsupportedModel: they hold one that is not a ResNet as torchvision builds it.
    """
    wrapped: dict[Any, Any] = (
        content if isinstance(content, dict) and not is_state_dict(content) else {"model": content}
    )
    module = next((wrapped[key] for key in _WHOLE if isinstance(wrapped.get(key), nn.Module)), None)
    state: StateDict | None = next((wrapped[key] for key in _STATES if is_state_dict(wrapped.get(key))), None)
    head: tuple[str, ...] | None = None
    if module is not None:
        module = vars(module)["_modules"].get("module", module)  # what DataParallel wraps
        own = OrderedDict(module_tensors(module))
        head, own = number_head(module, own)  # refuses a head before the weights are looked at
        state = own if state is None else number_head(module, strip_prefix(state))[1]
    if state is None:
        return None
    return _fit(strip_prefix(state), module, head, _class_names(wrapped))


def complete_legacy(found: LegacyModel, options: Legacy) -> LegacyDescription:
    """Choose the classes and the input of a model: those of the options, of the file, or the usual ones.

    Raises:
        UnsupportedModel: the number of classes is not that of the outputs, or neither options nor file name them.
    """
    given = tuple(name.strip() for name in options.classes.split(",")) if options.classes else None
    usual = USUAL_CLASSES if found.outputs == len(USUAL_CLASSES) else None
    classes = given or found.classes or usual
    if classes is None or len(set(classes)) != found.outputs:
        has = "no class names" if classes is None else f"the class names {', '.join(classes)}"
        raise UnsupportedModel(
            f"has {found.outputs} outputs and {has}; give --legacy.classes with {found.outputs} names, "
            "separated by commas, in the order of the outputs"
        )
    size, resize = options.size or USUAL_INPUT.size, options.resize or USUAL_INPUT.resize
    taken = [f"classes {', '.join(classes)}"] if not (given or found.classes) else []
    taken += [f"{size} pixels"] if options.size is None else []
    taken += [f"resize rule {resize}"] if options.resize is None else []
    taken += ["ImageNet's mean and standard deviation", "images without their masks drawn on them"]
    note = f"is a {found.arch} without a card; taken as usual: {'; '.join(taken)} (see --legacy.*)"
    return LegacyDescription(classes, Input(size=size, resize=resize), note)


def _fit(
    state: StateDict, module: nn.Module | None, head: tuple[str, ...] | None, classes: tuple[str, ...] | None
) -> LegacyModel:
    """Put the weights into a network of torchvision; ``head`` is None for a bare state_dict."""
    if head is None:
        head, state = (), rename_plain_head(state)
    arch = match_architecture(state)
    outputs = output_count(state, arch)
    fresh = skeleton_network(arch, outputs, head)
    if module is not None and (difference := module_difference(module, fresh)):
        raise UnsupportedModel(f"is not torchvision's {arch}: {difference}; it would give other probabilities")
    whole = complete_weights(state, fresh)
    check_fit(whole, state, fresh, arch)
    return LegacyModel(arch, whole, head, outputs, classes)


def _class_names(wrapped: dict[Any, Any]) -> tuple[str, ...] | None:
    """Return the class names in a file, in the order of the outputs."""
    for names in (wrapped[key] for key in _NAMES if key in wrapped):
        if isinstance(names, list | tuple) and all(isinstance(name, str) for name in names):
            return tuple(names)
        if isinstance(names, dict):
            pairs = [(k, v) if isinstance(v, str) else (v, k) for k, v in names.items()]
            if all(isinstance(index, int) and isinstance(name, str) for index, name in pairs):
                return tuple(name for _, name in sorted(pairs))
    return None
