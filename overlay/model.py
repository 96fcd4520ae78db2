"""What a model is: the network, its pretrained weights, and the file that carries both with all that using it needs.

A model file is what ``torch.save`` makes of a plain state_dict: ``torch.load`` gives it back, and torchvision's
network of the same name takes it, without this package. The card, an attribute ``overlay`` of the same dictionary,
says the rest.
"""

import hashlib
import json
from collections import OrderedDict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
import torchvision
from torch import Tensor, nn

from overlay.config import Input, OverlayStyle, ResizeRule
from overlay.errors import RequestError
from overlay.storage import one_line, write_atomically

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
MODEL_FILE = "Resnet_fineTuning.pth"
"""the file's name in the folder of a run"""
MODEL_FORMAT = 1

StateDict = OrderedDict[str, Tensor]


@dataclass(frozen=True)
class Weights:
    """Pretrained weights, and the statistics of the pixels that they were trained on (RGB, in 0..1)."""

    state: StateDict | None
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD


@dataclass(frozen=True)
class ModelCard:
    """All that using a model needs besides its weights."""

    arch: str
    classes: tuple[str, ...]
    size: int
    resize: ResizeRule
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    overlay: OverlayStyle | None
    """how masks were drawn on the training images; None where they came drawn already, in an unknown way"""
    dataset: str
    """fingerprint of the prepared dataset"""
    weights: str
    """what the training started from"""
    version: str
    """of Overlay, which wrote the file"""

    @property
    def input(self) -> Input:
        """What the model sees of an image."""
        return Input(size=self.size, resize=self.resize)


@dataclass(frozen=True)
class ModelFile:
    """A model as it was read."""

    path: str
    state: StateDict
    card: ModelCard
    sha256: str
    """of the file, as sha256sum prints it"""


def architectures() -> list[str]:
    """Return the names of torchvision's ResNets."""
    return sorted(n for n in torchvision.models.list_models(module=torchvision.models) if "resne" in n)


def build(arch: str, classes: int) -> nn.Module:
    """Return torchvision's network ``arch`` with random weights and a head of ``classes`` outputs.

    It takes normalised images (n, 3, size, size) and gives logits (n, classes).

    Raises:
        RequestError: no ResNet of torchvision has this name.
    """
    if arch not in architectures():
        raise RequestError(f"model.arch is {arch!r}; choose one of {', '.join(architectures())}")
    network: nn.Module = torchvision.models.get_model(arch, weights=None, num_classes=classes)
    return network


def pretrained(arch: str, weights: str) -> Weights:
    """Fetch the weights that training starts from.

    ``weights`` is "imagenet" (torchvision's default for this network), "none", or the path or URL of a state_dict.

    Raises:
        RequestError: they can't be reached, are no state_dict, or don't fit the network.
    """
    with torch.device("meta"):  # only names and shapes are needed
        skeleton = build(arch, classes=1000)
    if weights == "none":
        return Weights(state=None)
    if weights == "imagenet":
        chosen = torchvision.models.get_model_weights(arch).DEFAULT
        try:
            state = chosen.get_state_dict(progress=False, check_hash=True, weights_only=True)
        except Exception as error:  # a damaged file in torch's cache raises whatever the unpickler meets
            raise RequestError(
                f"the imagenet weights of {arch} can't be downloaded ({one_line(error)}); connect to the network, "
                "give a file with --model.weights PATH, or start from random weights with --model.weights none"
            ) from error
        preset = chosen.transforms()
        return Weights(state, tuple(preset.mean), tuple(preset.std))
    state = _read_state(weights)
    _check_fit(skeleton, state, arch, weights)
    card: dict[str, Any] = getattr(state, "overlay", {})
    return Weights(state, tuple(card.get("mean", IMAGENET_MEAN)), tuple(card.get("std", IMAGENET_STD)))


def initialise(network: nn.Module, weights: Weights) -> None:
    """Load pretrained weights into a network, all but its head, whose outputs are other classes."""
    if weights.state is not None:
        body = {name: tensor for name, tensor in weights.state.items() if not name.startswith("fc.")}
        network.load_state_dict(body, strict=False)


def normalise(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Turn pixels uint8 (n, height, width, 3) into normalised float32 (n, 3, height, width), channels last in memory.

    ``mean`` and ``std``, (3,) in 0..1, lie on the device of the images.
    """
    return ((images.float() / 255 - mean) / std).permute(0, 3, 1, 2)


def save(path: Path, state: StateDict, card: ModelCard) -> None:
    """Write a model file, whole or not at all."""
    plain: StateDict = OrderedDict((name, tensor.detach().cpu().contiguous()) for name, tensor in state.items())
    # load_state_dict looks at the keys only, and weights_only unpickling restores the attributes of an OrderedDict.
    described = {"format": MODEL_FORMAT, **asdict(card)}
    plain.overlay = {**described, "sha256": checksum(plain, described)}  # type: ignore[attr-defined]
    with write_atomically(path) as temporary:
        torch.save(plain, temporary)


def load(path: str | Path) -> ModelFile:
    """Read a model file, given as itself or as the folder of the run that made it.

    Raises:
        RequestError: the file isn't there, is no model file of Overlay, was written by a newer version, or is damaged.
    """
    file = Path(path) / MODEL_FILE if Path(path).is_dir() else Path(path)
    state = _read_state(str(file))
    stored: dict[str, Any] | None = getattr(state, "overlay", None)
    if stored is None:
        raise RequestError(f"{file} holds weights but no card; give a model file that overlay train wrote")
    values = {name: value for name, value in stored.items() if name not in ("format", "sha256")}
    style = values.pop("overlay")
    card = ModelCard(
        **{**values, **{name: tuple(values[name]) for name in ("classes", "mean", "std")}},
        overlay=None if style is None else OverlayStyle(**style),
    )
    with file.open("rb") as opened:
        return ModelFile(str(file), state, card, hashlib.file_digest(opened, "sha256").hexdigest())


def network(file: ModelFile) -> nn.Module:
    """Return the network of a model file, with its weights, in eval mode on the CPU."""
    built = build(file.card.arch, len(file.card.classes))
    built.load_state_dict(file.state)
    return built.eval()


def checksum(state: StateDict, card: dict[str, Any]) -> str:
    """Return the sha256, as hexadecimal digits, of a card, and of the names, types, shapes and bytes of all tensors."""
    digest = hashlib.sha256(json.dumps(card, sort_keys=True).encode())
    for name, tensor in state.items():
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _read_state(where: str) -> StateDict:
    remote = urlparse(where).scheme in ("http", "https")
    try:
        file = _download(where) if remote else Path(where)
    except Exception as error:  # URLs and servers go wrong in more ways than OSError covers
        raise RequestError(f"the weights at {where} can't be downloaded: {one_line(error)}") from error
    cause: Exception | None = None
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise RequestError(f"no weights at {where}; check the path") from None
    except OSError as error:
        raise RequestError(f"the weights at {where} can't be read: {one_line(error)}") from error
    except Exception as error:  # damaged files raise whatever the unpickler meets
        state, cause = None, error
    if not _is_state_dict(state):
        if remote:
            file.unlink()  # else a page that says "not found" would stay for ever
        # What torch.load says here is how to switch its protection off, which is no advice to pass on.
        raise RequestError(
            f"{where} holds no state_dict, or a damaged one; give a file that torch.save made of model.state_dict()"
        ) from cause
    state = state if isinstance(state, OrderedDict) else OrderedDict(state)
    _check_card(state, where)
    return state


def _is_state_dict(state: object) -> bool:
    return (
        isinstance(state, dict)
        and len(state) > 0
        and all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in state.items())
    )


def _download(url: str) -> Path:
    """Download into torch's cache, once; a cached file is known by its whole URL, since many end in `model.pth`."""
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    file = folder / f"{hashlib.sha256(url.encode()).hexdigest()[:16]}.pth"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(file), progress=False)
    return file


def _check_card(state: StateDict, where: str) -> None:
    """Refuse a model file of Overlay that is newer or damaged; other weights have no card to check."""
    card: dict[str, Any] | None = getattr(state, "overlay", None)
    if card is None:
        return
    if card["format"] > MODEL_FORMAT:
        raise RequestError(f"{where} has model format {card['format']}, newer than {MODEL_FORMAT}; update overlay")
    if card["sha256"] != checksum(state, {name: value for name, value in card.items() if name != "sha256"}):
        raise RequestError(f"{where} is damaged: its content doesn't match its checksum; copy it again")


def _check_fit(network: nn.Module, state: StateDict, arch: str, where: str) -> None:
    """Refuse weights with other names or shapes than the network's, the head aside."""
    expected = {n: tuple(t.shape) for n, t in network.state_dict().items() if not n.startswith("fc.")}
    given = {n: tuple(t.shape) for n, t in state.items() if not n.startswith("fc.")}
    for name in [*expected, *given]:
        # Files from before torch 0.4.1 lack the counter, and nothing depends on it.
        if expected.get(name) != given.get(name) and not name.endswith("num_batches_tracked"):
            raise RequestError(
                f"the weights at {where} don't fit {arch}: {name} is {given.get(name, 'missing')} there and "
                f"{expected.get(name, 'not known')} in the network; choose the architecture that they were made with"
            )
