"""The model file: a network's weights, with all that using them needs.

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
from torch import Tensor, nn

from overlay.config import Input, OverlayStyle, ResizeRule
from overlay.errors import RequestError
from overlay.network import StateDict, build
from overlay.storage import one_line, write_atomically

MODEL_FILE = "Resnet_fineTuning.pth"
"""the file's name in the folder of a run"""
MODEL_FORMAT = 1


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
    state = read_state(str(file))
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


def read_state(where: str) -> StateDict:
    """Read a state_dict from a path or URL.

    Raises:
        RequestError: it can't be reached, is none, or is a damaged or newer model file.
    """
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
