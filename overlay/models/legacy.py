"""Model files of other programs: a state_dict of one of torchvision's networks, or the pickle of a whole model.

A pickle can run anything while it is read, so it is read by `overlay.models.inert_pickle`, which calls nothing that it
names. Tensors and numbers of it go into a network that torchvision built here.
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

from overlay.config import Input, Legacy
from overlay.errors import UnsupportedModel
from overlay.models.inert_pickle import Record
from overlay.models.legacy_classes import ClassNames, find_class_names
from overlay.models.legacy_content import find_weights
from overlay.models.legacy_module import (
    describe_layers,
    head_layers,
    head_weights,
    module_difference,
    module_tensors,
    own_names,
)
from overlay.models.network import StateDict
from overlay.models.safe_load import Weight, read_tensors
from overlay.models.torchvision_weights import empty_network, fill_network, rename_old_keys
from overlay.models.weight_matching import Match, difference, match_backbone

USUAL_CLASSES = ("benign", "malignant", "normal")
USUAL_INPUT = Input(size=224, resize="crop")
_GIVE = "give a model file that overlay train wrote, or a state_dict of one of torchvision's classification networks"


@dataclass(frozen=True)
class LegacyModel:
    """Content of a model file of another program."""

    arch: str
    state: StateDict
    """weights of `overlay.models.torchvision_weights.empty_network`"""
    head: tuple[str, ...]
    """layers of a head that is not torchvision's own, as `overlay.models.heads` writes them"""
    outputs: int
    classes: ClassNames | None
    """class names in the order of the outputs; None where the file has none, or the options say them"""


@dataclass(frozen=True)
class LegacyDescription:
    """Classes and input of a model file of another program, from the options and by convention."""

    classes: tuple[str, ...]
    input: Input
    note: str
    """the conventions that were applied, to follow the file's name"""


@dataclass(frozen=True)
class _Fitted:
    """Weights by their names in a network of torchvision, with the layers of a head that is not its own."""

    arch: str
    weights: dict[str, Weight]
    head: tuple[str, ...]
    outputs: int


def read_legacy(content: object, options: Legacy) -> LegacyModel | None:
    """Read the content of a file; None where it has neither a model nor a state_dict.

    Raises:
        UnsupportedModel: it has one that is no network of torchvision, or class names that can't be read or disagree
            and that ``options`` don't replace.
        UnpicklingError: the file is damaged.
    """
    found = find_weights(content)
    if found is None:
        return None
    fitted = (
        _fit_state(found.state or OrderedDict()) if found.module is None else _fit_module(found.module, found.state)
    )
    if fitted.outputs < 2:
        raise UnsupportedModel("has one output, which has no softmax; give a model with an output for each class")
    classes = None if options.classes else find_class_names(found.beside, fitted.outputs)
    network = empty_network(fitted.arch, fitted.outputs, fitted.head)
    try:
        state = fill_network(network, read_tensors(fitted.weights))
    except RuntimeError as error:
        raise UnsupportedModel(f"doesn't fit torchvision's {fitted.arch}: {error}") from error
    return LegacyModel(fitted.arch, state, fitted.head, fitted.outputs, classes)


def complete_legacy(found: LegacyModel, options: Legacy) -> LegacyDescription:
    """Choose the classes and the input of a model: those of the options, of the file, or the usual ones.

    Raises:
        UnsupportedModel: the number of classes is not that of the outputs, or neither options nor file name them.
    """
    given = tuple(name.strip() for name in options.classes.split(",")) if options.classes else None
    read = None if found.classes is None else found.classes.names
    usual = USUAL_CLASSES if found.outputs == len(USUAL_CLASSES) else None
    classes = given or read or usual
    if classes is None or len(set(classes)) != found.outputs:
        has = "no class names" if classes is None else f"the class names {', '.join(classes[:20])}"
        raise UnsupportedModel(
            f"has {found.outputs} outputs and {has}; give --legacy.classes with {found.outputs} names, "
            "separated by commas, in the order of the outputs"
        )
    size, resize = options.size or USUAL_INPUT.size, options.resize or USUAL_INPUT.resize
    taken = [] if given or read else [f"classes {', '.join(classes)}"]
    taken += [f"{size} pixels"] if options.size is None else []
    taken += [f"resize rule {resize}"] if options.resize is None else []
    taken += ["ImageNet's mean and standard deviation", "images without their masks drawn on them"]
    from_file = (
        "" if given or found.classes is None else f", with the classes {', '.join(classes)} ({found.classes.key})"
    )
    note = f"is a {found.arch} without a card{from_file}; taken as usual: {'; '.join(taken)} (see --legacy.*)"
    return LegacyDescription(classes, Input(size=size, resize=resize), note)


def _fit_state(given: Mapping[str, Weight]) -> _Fitted:
    """Find the network of a bare state_dict, and its head, which must be one linear layer."""
    state = rename_old_keys(given)
    match, whole = match_backbone(state), True
    if match is None:
        match, whole = match_backbone(state, trunk_only=True), False
    if match is None:
        raise UnsupportedModel(
            "holds weights but no card, and is none of torchvision's classification networks; the nearest is "
            f"{difference(state)}; {_GIVE}"
        )
    one = match.skeleton
    head: tuple[str, ...]
    layer = _only_layer(match, state)
    weight, bias = state[f"{layer}.weight"], state.get(f"{layer}.bias")
    outputs, inputs = weight.shape
    flat = [shape[1] for name, shape in one.body.items() if name.startswith(f"{one.root}.") and len(shape) == 2]
    if inputs != (one.features if whole else next(iter(flat), one.features)):
        raise UnsupportedModel(
            f"doesn't fit torchvision's {one.arch}: {layer}.weight is {tuple(weight.shape)} there, of "
            f"{one.features} features; {_GIVE}"
        )
    if whole and (bias is not None) == one.bias:
        head, name = (), one.head
    else:
        # In place of the whole part that the head is in; flattening changes nothing where features are flat already.
        ending = "" if bias is not None else ", False"
        head, name = ("Flatten(1, -1)", f"Linear({inputs}, {outputs}{ending})"), f"{one.root}.1"
        if whole and one.head != one.root:
            raise UnsupportedModel(f"has a head {layer} with a bias or without one, unlike {one.arch}'s; {_GIVE}")
    weights = {own: state[there] for own, there in match.body.items()}
    weights |= {f"{name}.weight": weight} | ({} if bias is None else {f"{name}.bias": bias})
    return _Fitted(one.arch, weights, head, outputs)


def _only_layer(match: Match, state: Mapping[str, Weight]) -> str:
    """Return the name of the one linear layer that is not of the body.

    Raises:
        UnsupportedModel: there is none, there are several, or there is something else.
    """
    arch, root = match.skeleton.arch, match.skeleton.root
    layers: dict[str, set[str]] = {}
    for name in match.rest:
        layer, _, part = name.rpartition(".")
        layers.setdefault(layer, set()).add(part)
    if not layers:
        raise UnsupportedModel(f"has no weights of a head called {root}, as torchvision's {arch} has; give all weights")
    strange = next(iter([*match.within_body, *(name for name in match.rest if state[name].ndim > 2)]), None)
    if strange is not None:
        raise UnsupportedModel(
            f"has the weights of {arch}, and {strange} {tuple(state[strange].shape)} besides, whose place in the "
            f"network is not known; {_GIVE}"
        )
    names = ", ".join(sorted(layers))
    if len(layers) > 1:
        raise UnsupportedModel(
            f"has a head of several layers ({names}), and weights alone don't say what lies between them; give the "
            "file of the whole model, as torch.save(model, ...) writes it"
        )
    parts = next(iter(layers.values()))
    if "weight" not in parts or not parts <= {"weight", "bias"} or state[f"{names}.weight"].ndim != 2:
        raise UnsupportedModel(f"has the weights of {arch}, and {names} besides, which is no linear layer; {_GIVE}")
    return names


def _fit_module(module: Record, state: Mapping[str, Weight] | None) -> _Fitted:
    """Find the network of a whole model, whose head may have several layers; ``state`` has its weights if given."""
    own: dict[str, Weight] = OrderedDict(module_tensors(module))
    weights = own if state is None else state
    match = match_backbone(weights, trunk_only=True)
    if match is None or match.within_body:
        raise UnsupportedModel(
            f"is none of torchvision's classification networks; the nearest is {difference(weights)}"
        )
    one = match.skeleton
    fresh = empty_network(one.arch, 2, ())
    # Refuses a head before the rest is looked at.
    layers, known = head_layers(module, one.root), head_layers(fresh, one.root)
    if found := module_difference(module, fresh, one.root):
        raise UnsupportedModel(f"is not torchvision's {one.arch}: {found}; it would give other probabilities")
    tensors = {name.removeprefix(match.prefix): tensor for name, tensor in weights.items()}
    fitted = {name: weights[there] for name, there in match.body.items()}
    fitted = {name: tensor for name, tensor in fitted.items() if not name.startswith(f"{one.root}.")}
    names = own_names(layers, known)
    last = next(tensors[f"{layer.name}.weight"] for layer in reversed(layers) if layer.kind == "Linear")
    if names is None:
        inside = {f"{one.root}.{name}": tensor for name, tensor in head_weights(layers, tensors).items()}
        return _Fitted(one.arch, fitted | inside, describe_layers(layers), last.shape[0])
    for own_name, given in names.items():
        fitted |= {
            own_name + name.removeprefix(given): tensor
            for name, tensor in tensors.items()
            if name.startswith(f"{given}.")
        }
    return _Fitted(one.arch, fitted, (), last.shape[0])
