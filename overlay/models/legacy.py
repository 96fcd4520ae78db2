"""Model files of other programs: a bare state_dict of a ResNet, or the pickle of a whole model, as notebooks leave it.

A pickle can run anything while it is read, so `overlay.models.safe_load` lets through only the classes that a
torchvision ResNet is made of. Of what comes out no method is called either: its tensors and numbers are read, go into a
network that torchvision built, and the object is dropped.
"""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from overlay.config import Input, Legacy
from overlay.errors import RequestError
from overlay.models import heads
from overlay.models.network import StateDict, architectures, create_network
from overlay.models.safe_load import is_state_dict

USUAL_CLASSES = ("benign", "malignant", "normal")
USUAL_INPUT = Input(size=224, resize="crop")
_WHOLE = ("model", "net", "network")
_STATES = ("model_state_dict", "state_dict", "model_state", "net_state_dict", "weights", *_WHOLE)
_NAMES = ("class_names", "classes", "labels", "class_to_idx", "idx_to_class")
# What has no influence on a network that is not trained, or follows from the rest.
_IRRELEVANT = {"training", "inplace", "momentum"}
_DEEPEST = 10


@dataclass(frozen=True)
class LegacyModel:
    """What a file of another program says."""

    arch: str
    state: StateDict
    """of `overlay.models.network.create_network`, or with ``fc.0``, ``fc.1``, ... where there is a head of several
    layers"""
    head: tuple[str, ...]
    outputs: int
    classes: tuple[str, ...] | None


def read_legacy(content: object, where: str) -> LegacyModel | None:
    """Read what ``torch.load`` gave under ``ALLOWED``; None where it holds neither a model nor a state_dict.

    Raises:
        RequestError: it holds one that is not a ResNet as torchvision builds it.
    """
    wrapped: dict[Any, Any] = (
        content if isinstance(content, dict) and not is_state_dict(content) else {"model": content}
    )
    module = next((wrapped[key] for key in _WHOLE if isinstance(wrapped.get(key), nn.Module)), None)
    state: StateDict | None = next((wrapped[key] for key in _STATES if is_state_dict(wrapped.get(key))), None)
    head: tuple[str, ...] | None = None
    if module is not None:
        module = vars(module)["_modules"].get("module", module)  # what DataParallel wraps
        of_module = OrderedDict(_tensors(module, where))
        head, of_module = _head_of(module, of_module, where)
        if state is None:
            state = of_module
        else:
            state = _without_prefix(state)
            _, state = _head_of(module, state, where)
    if state is None:
        return None
    return _fitted(_without_prefix(state), module, head, _class_names(wrapped), where)


def complete_legacy(found: LegacyModel, options: Legacy, where: str) -> tuple[tuple[str, ...], Input, str]:
    """Return the classes and the input of a model, and one line that says what was taken for granted.

    Raises:
        RequestError: the number of classes is not that of the outputs, or nothing says what they are.
    """
    given = tuple(name.strip() for name in options.classes.split(",")) if options.classes else None
    usual = USUAL_CLASSES if found.outputs == len(USUAL_CLASSES) else None
    classes = given or found.classes or usual
    if classes is None or len(set(classes)) != found.outputs:
        has = "no class names" if classes is None else f"the class names {', '.join(classes)}"
        raise RequestError(
            f"{where} has {found.outputs} outputs and {has}; give --legacy.classes with {found.outputs} names, "
            "separated by commas, in the order of the outputs"
        )
    size, resize = options.size or USUAL_INPUT.size, options.resize or USUAL_INPUT.resize
    taken = [f"classes {', '.join(classes)}"] if not (given or found.classes) else []
    taken += [f"{size} pixels"] if options.size is None else []
    taken += [f"resize rule {resize}"] if options.resize is None else []
    taken += ["ImageNet's mean and standard deviation", "images without their masks drawn on them"]
    note = f"{where} is a {found.arch} without a card; taken as usual: {'; '.join(taken)} (see --legacy.*)"
    return classes, Input(size=size, resize=resize), note


def _tensors(module: nn.Module, where: str, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Tensor]]:
    """Yield what a state_dict would hold, without calling a method of the object."""
    if depth > _DEEPEST:
        raise RequestError(f"{where} is no ResNet: its modules lie {depth} deep in each other; give a state_dict")
    inner = vars(module)
    for name, tensor in [*inner["_parameters"].items(), *inner["_buffers"].items()]:
        if isinstance(tensor, Tensor):
            yield f"{prefix}{name}", tensor.detach()
    for name, child in inner["_modules"].items():
        yield from _tensors(child, where, f"{prefix}{name}.", depth + 1)


def _without_prefix(state: StateDict) -> StateDict:
    """Drop what DataParallel, torch.compile or a class around the network put before every name."""
    first = min((name for name in state if name.endswith("conv1.weight")), key=len, default="conv1.weight")
    prefix = first.removesuffix("conv1.weight")
    whole = all(name.startswith(prefix) for name in state)
    return OrderedDict((name.removeprefix(prefix) if whole else name, tensor) for name, tensor in state.items())


def _head_of(module: nn.Module, state: StateDict, where: str) -> tuple[tuple[str, ...], StateDict]:
    """Return the layers of a module's head, and the state with these numbered; no layers where one Linear is all.

    A softmax at the end is left out: every network here gives logits, and the softmax of a log-softmax is the softmax.
    """
    layers = list(_layers(vars(module)["_modules"].get("fc"), "fc", where))
    if layers and layers[-1][1] in (nn.Softmax, nn.LogSoftmax) and layers[-1][2].get("dim") in (1, -1, None):
        layers.pop()
    if strange := [kind.__name__ for _, kind, _ in layers if kind not in heads.LAYERS]:
        raise RequestError(f"{where} has a layer {strange[0]} in its head, which is not known there; known are "
                           f"{', '.join(kind.__name__ for kind in heads.LAYERS)}")  # fmt: skip
    active = [kind for _, kind, _ in layers if kind not in (nn.Dropout, nn.Identity, nn.Flatten)]
    if active[-1:] != [nn.Linear]:
        ends = active[-1].__name__ if active else "nothing"
        raise RequestError(
            f"{where} has a head that ends with {ends}; probabilities are the softmax of a Linear layer's outputs here"
        )
    alone = active == [nn.Linear]
    renamed = {
        f"{name}.": "fc." if alone and kind is nn.Linear else f"fc.{index}."
        for index, (name, kind, _) in enumerate(layers)
    }
    body = OrderedDict((name, tensor) for name, tensor in state.items() if not name.startswith("fc."))
    for old, new in renamed.items():
        body |= {new + name.removeprefix(old): tensor for name, tensor in state.items() if name.startswith(old)}
    return () if alone else tuple(heads.describe_head(kind, inner) for _, kind, inner in layers), body


def _layers(
    module: nn.Module | None, name: str, where: str, depth: int = 0
) -> Iterator[tuple[str, type[nn.Module], dict[str, Any]]]:
    """Yield the name, the class and the attributes of each layer, those of nested Sequentials one after the other."""
    if module is None or depth > _DEEPEST:
        raise RequestError(f"{where} has no head called fc, as a ResNet has; give a state_dict of torchvision's ResNet")
    if type(module) is not nn.Sequential:
        yield name, type(module), vars(module)
        return
    for inner, child in vars(module)["_modules"].items():
        yield from _layers(child, f"{name}.{inner}", where, depth + 1)


def _fitted(
    state: StateDict,
    module: nn.Module | None,
    head: tuple[str, ...] | None,
    classes: tuple[str, ...] | None,
    where: str,
) -> LegacyModel:
    """Put the weights into a fresh network, and return its state."""
    if head is None:
        head, state = (), _with_plain_head(state, where)
    arch = _arch(state, where)
    last = [tensor for name, tensor in state.items() if name.startswith("fc.") and tensor.ndim == 2]
    if not last:
        raise RequestError(f"{where} has no weights of a head called fc, as torchvision's {arch} has; give all weights")
    if len(last[-1]) < 2:
        raise RequestError(f"{where} has one output, which has no softmax; give a model with an output for each class")
    with torch.device("meta"):  # the weights are there already
        fresh = create_network(arch, len(last[-1]))
        if head:
            fresh.fc = heads.build_head(head)
    if module is not None and (difference := _difference(module, fresh)):
        raise RequestError(f"{where} is not torchvision's {arch}: {difference}; it would give other probabilities")
    whole: StateDict = OrderedDict()
    for name, tensor in fresh.state_dict().items():
        if name in state:
            whole[name] = state[name].to(tensor.dtype)
        elif name.endswith("num_batches_tracked"):  # not in files from before torch 0.4.1, and nothing depends on it
            whole[name] = torch.tensor(0)
    known = fresh.state_dict()
    for name in [*known, *state]:
        given, expected = whole.get(name, state.get(name)), known.get(name)
        if given is None or expected is None or given.shape != expected.shape:
            raise RequestError(
                f"{where} doesn't fit torchvision's {arch}: {name} is {_shape(given)} there and "
                f"{_shape(expected)} in the network; give a state_dict of torchvision's ResNet"
            )
    return LegacyModel(arch, whole, head, len(last[-1]), classes)


def _with_plain_head(state: StateDict, where: str) -> StateDict:
    """Name the head of a bare state_dict as torchvision does, where it is one layer inside a Sequential."""
    inner = {name.rpartition(".")[0] for name in state if name.startswith("fc.")} - {"fc"}
    if len(inner) > 1:
        raise RequestError(
            f"{where} has a head of several layers ({', '.join(sorted(inner))}), and weights alone don't say what lies "
            "between them; give the file of the whole model, as torch.save(model, ...) writes it"
        )
    only = f"{next(iter(inner), 'fc')}."
    return OrderedDict(
        (f"fc.{name.removeprefix(only)}" if name.startswith(only) else name, tensor) for name, tensor in state.items()
    )


def _arch(state: StateDict, where: str) -> str:
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items() if _is_body(name)}
    arch = next((arch for arch, known in _resnets().items() if known == shapes), None)
    if arch is None:
        raise RequestError(
            f"{where} holds weights but no card, and is no ResNet of torchvision (known are {', '.join(_resnets())}); "
            "give a model file that overlay train wrote, or a state_dict of one of these"
        )
    return arch


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


def _difference(module: nn.Module, fresh: nn.Module, prefix: str = "") -> str | None:
    """Say in what, besides weights, a module is not the fresh one, such as a stride or a layer put in place."""
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
    return next(filter(None, (_difference(children[n], known[n], f"{prefix}{n}.") for n in known)), None)


def _class_names(wrapped: dict[str, Any]) -> tuple[str, ...] | None:
    """Return the class names that a file carries, in the order of the outputs."""
    for names in (wrapped[key] for key in _NAMES if key in wrapped):
        if isinstance(names, list | tuple) and all(isinstance(name, str) for name in names):
            return tuple(names)
        if isinstance(names, dict):
            pairs = [(k, v) if isinstance(v, str) else (v, k) for k, v in names.items()]
            if all(isinstance(index, int) and isinstance(name, str) for index, name in pairs):
                return tuple(name for _, name in sorted(pairs))
    return None


def _shape(tensor: Tensor | None) -> str:
    return "missing" if tensor is None else str(tuple(tensor.shape))
