"""Networks of torchvision with a classification head, their stages, and the normalisation of their input."""

import difflib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout as drop
from torch.overrides import TorchFunctionMode

from overlay.errors import RequestError, one_line
from overlay.models.light_torchvision import torchvision

StateDict = OrderedDict[str, Tensor]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""mean and standard deviation of ImageNet's pixels, RGB in 0..1, as torchvision's weights expect them"""

# Networks with several outputs in training, without a linear head, or that can't be built without memory; and one whose
# weights are for another image size than its network.
_LEFT_OUT = ("googlenet", "inception", "squeezenet", "regnet", "vit_h_14")


FITS_ALL = 224
"""side of an image in pixels that every network takes"""


def architectures() -> list[str]:
    """Return the names of torchvision's classification networks whose head can be replaced, all ResNets among them."""
    names = torchvision.models.list_models(module=torchvision.models)
    return sorted(name for name in names if not name.startswith(_LEFT_OUT))


def create_network(arch: str, classes: int, dropout: float = 0.0) -> nn.Module:
    """Return torchvision's network ``arch`` with random weights and a head of ``classes`` outputs.

    It takes normalised images (n, 3, size, size) and gives logits (n, classes). In training, each input of the head is
    dropped with the probability ``dropout``; the names in the state_dict stay torchvision's.

    Raises:
        RequestError: `architectures` has no network of this name.
    """
    known = architectures()
    if arch not in known:
        near = difflib.get_close_matches(arch, known, n=5, cutoff=0.5)
        raise RequestError(
            f"model.arch is {arch!r}; choose a classification network of torchvision, such as "
            f"{', '.join(near or ('resnet18', 'resnet50', 'resnet101'))}"
        )
    network: nn.Module = torchvision.models.get_model(arch, weights=None, num_classes=classes)
    if dropout:
        network.get_submodule(head_name(network)).register_forward_pre_hook(partial(_drop, dropout))
    return network


class _WithoutValues(TorchFunctionMode):
    """Leaves out what only sets values of a tensor in place, such as the random numbers of new weights."""

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:  # noqa: ANN401
        named = kwargs or {}
        changed = args[0] if args else named.get("tensor")
        name = getattr(func, "__name__", "")
        if name.endswith("_") and not name.startswith("_") and isinstance(changed, Tensor):
            return changed
        return func(*args, **named)


@contextmanager
def without_memory() -> Iterator[None]:
    """Build networks with names and shapes of weights, without memory for them and in a third of the time."""
    with torch.device("meta"), _WithoutValues():
        yield


def check_input_size(arch: str, size: int) -> None:
    """Check that a network takes images of ``size`` pixels, by a forward pass without memory.

    ResNets take any size, and every network 224: these are not tried, since the pass imports torch's compiler, which
    takes longer than torch itself.

    Raises:
        RequestError: there is no such network, or its forward pass fails.
    """
    with without_memory():
        network = create_network(arch, classes=2)
    if size == FITS_ALL or isinstance(network, torchvision.models.ResNet):
        return
    with torch.device("meta"):
        try:
            network(torch.empty(2, 3, size, size))
        except Exception as error:  # each network raises a type of its own
            raise RequestError(
                f"input.size is {size}, which {arch} can't take ({one_line(error)}); {FITS_ALL} fits every network"
            ) from error


def head_name(network: nn.Module) -> str:
    """Return the name of the last linear layer, which gives the logits: fc in a ResNet."""
    linear: list[str] = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    return linear[-1]


def parameter_stages(network: nn.Module) -> dict[str, list[str]]:
    """Return the names of the parameters of each stage, from the input to the output.

    A ResNet has the stages stem, layer1 to layer4 and head; any other network has backbone and head.
    """
    head = head_name(network)
    found: dict[str, list[str]] = {}
    for name, _ in network.named_parameters():
        if name.startswith(f"{head}."):
            stage = "head"
        elif isinstance(network, torchvision.models.ResNet):
            stage = name.partition(".")[0] if name.startswith("layer") else "stem"
        else:
            stage = "backbone"
        found.setdefault(stage, []).append(name)
    return found


def normalise(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Normalise pixels uint8 (n, height, width, 3) to float32 (n, 3, height, width), channels last in memory.

    ``mean`` and ``std``, (3,) in 0..1, lie on the device of the images.
    """
    return ((images.float() / 255 - mean) / std).permute(0, 3, 1, 2)


def _drop(probability: float, head: nn.Module, inputs: tuple[Tensor]) -> Tensor:
    return drop(inputs[0], probability, training=head.training)
