"""Model file: weights of a network, and the card with classes, input size, normalisation and provenance.

A model file is a plain state_dict, written by ``torch.save``: ``torch.load`` reads it, and torchvision's network of the
same name loads it, without this package. The card is an attribute ``overlay`` of the same dictionary; in safetensors
it is JSON in the metadata. Files of other programs get a card when they are read: see ``overlay/models/legacy.py``.
"""

import base64
import hashlib
import json
from collections import OrderedDict
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from torch import Tensor, nn

from overlay.config import MAX_PIXELS, Input, Legacy, OverlayStyle, ResizeRule
from overlay.errors import RequestError, UnsupportedModel, one_line
from overlay.models import heads, legacy
from overlay.models.network import IMAGENET_MEAN, IMAGENET_STD, StateDict, create_network
from overlay.models.safe_load import download_weights, is_state_dict, no_weights, read_safetensors, read_weights
from overlay.models.training_hashes import (
    HashRecord,
    TrainingHashes,
    parse_record,
    read_training_hashes,
    write_beside,
)
from overlay.storage.atomic import write_atomically

MODEL_FILE = "Resnet_fineTuning.pth"
"""the file's name in the folder of a run"""
MODEL_FORMAT = 4
"""format that this version writes, and the newest that it reads"""
_SCALED_CONTOURS = 4  # first format whose contours are as wide at each image size


@dataclass(frozen=True)
class CalibratedOn:
    """Validation images that a model was calibrated on."""

    images: int
    mistakes: int
    """images among them whose label was wrong"""
    outcome: str
    """fitted; or why the temperature stayed at 1: too few mistakes, diverged"""


@dataclass(frozen=True)
class ModelCard:
    """Model card: all that a prediction needs besides the weights, and where they come from."""

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
    """pretrained weights that the training started from"""
    version: str
    """version of Overlay that wrote the file"""
    code: str = "unknown"
    """fingerprint of the code that wrote the file, see `overlay.version`"""
    max_pixels: int = MAX_PIXELS
    """largest image, in pixels, that the training data could hold; larger inputs are refused unless asked for"""
    head: tuple[str, ...] = ()
    """layers in place of the network's last one, as `overlay.models.heads` writes them; none where it is torchvision's
    own"""
    fold: int | None = None
    """run of the cross-validation that the model was trained in; None where it was no such run"""
    temperature: float = 1.0
    """number that the weight and bias of the last layer were divided by; 1 where none was fitted"""
    calibrated_on: CalibratedOn | None = None
    """None where the model was not calibrated"""
    positive: str | None = None
    """positive class of ``threshold``"""
    threshold: float | None = None
    """a prediction whose probability of ``positive`` is this or higher is flagged; None without a positive class"""
    threshold_n: int = 0
    """positive validation images that the threshold was chosen on"""
    uncertain_below: float | None = None
    """a prediction with a lower confidence is uncertain; None where nobody chose a threshold"""
    hashes: HashRecord | None = None
    """perceptual hashes of the training and validation images; None where they are not known"""

    @property
    def input(self) -> Input:
        """Size and resize rule of the model's input."""
        return Input(size=self.size, resize=self.resize)

    @property
    def flag(self) -> tuple[str, float] | None:
        """Positive class and its threshold; None where there is none."""
        return None if self.positive is None or self.threshold is None else (self.positive, self.threshold)


@dataclass(frozen=True)
class ModelFile:
    """Model file in memory: weights, card and checksum."""

    path: str
    state: StateDict
    card: ModelCard
    sha256: str
    """of the file, as sha256sum prints it"""
    hashes: TrainingHashes | None = None
    """of the training and validation images; None where they are not known, or their file is not there"""


def save_model_file(path: Path, state: StateDict, card: ModelCard, hashes: TrainingHashes | None = None) -> None:
    """Write a model file atomically, with the hashes of its images, or with a file of these beside it."""
    if hashes is not None:
        card = replace(card, hashes=hashes.record)
    plain: StateDict = OrderedDict((name, tensor.detach().cpu().contiguous()) for name, tensor in state.items())
    # load_state_dict looks at the keys only, and weights_only unpickling restores the attributes of an OrderedDict.
    described = card_metadata(card)
    plain.overlay = {**described, "sha256": checksum(plain, described)}  # type: ignore[attr-defined]
    if hashes is not None and hashes.record.inside:
        plain.overlay_hashes = torch.from_numpy(hashes.to_array())  # type: ignore[attr-defined]
    elif hashes is not None:
        write_beside(path, hashes)
    with write_atomically(path) as temporary:
        torch.save(plain, temporary)


def load_model_file(path: str | Path, options: Legacy | None = None) -> ModelFile:
    """Read a model file, given as itself or as the folder of the run that made it.

    A file of another program is read by the rules of ``overlay/models/legacy.py``; what it lacks comes from
    ``options``, or is set as usual, which is then printed.

    Raises:
        RequestError: the file does not exist, holds no model that can be read, was written by a newer version, or is
            damaged; or it has a card, and ``options`` are given, too.
    """
    file = Path(path) / MODEL_FILE if Path(path).is_dir() else Path(path)
    content = read_safetensors(file) if file.suffix == ".safetensors" else read_weights(file, str(file))
    stored: dict[str, Any] | None = getattr(content, "overlay", None)
    if stored is not None:
        assert isinstance(content, OrderedDict)  # nothing else has attributes
        if given := [field.name for field in fields(Legacy) if getattr(options or Legacy(), field.name) is not None]:
            raise RequestError(f"{file} has a card that says its {given[0]}; leave --legacy.{given[0]} away")
        _check_card(content, str(file))
        state, card = content, _card(stored)
    else:
        state, card = _legacy(content, options or Legacy(), str(file))
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    stored_hashes: Tensor | None = getattr(content, "overlay_hashes", None)
    binary = None if stored_hashes is None else stored_hashes.numpy().tobytes()
    return ModelFile(str(file), state, card, digest, read_training_hashes(file, card.hashes, binary))


def build_network(file: ModelFile) -> nn.Module:
    """Return the network of a model file, with its weights, in eval mode on the CPU; it gives logits."""
    with torch.device("meta"):  # the weights are there already
        built = create_network(file.card.arch, len(file.card.classes))
        if file.card.head:
            built.fc = heads.build_head(file.card.head)
    state = OrderedDict(file.state)
    state._metadata = built.state_dict()._metadata  # type: ignore[attr-defined]  # versions, without which mnasnet fails
    built.load_state_dict(state, assign=True)
    return built.eval()


def card_metadata(card: ModelCard) -> dict[str, Any]:
    """Return a card with its format, as values of JSON."""
    return {"format": MODEL_FORMAT, **asdict(card)}


def write_safetensors(file: Path, model: ModelFile) -> None:
    """Write a model with its card as safetensors, which sorts tensors by their size; the card keeps their order."""
    from safetensors.torch import save

    described = card_metadata(model.card)
    card = {**described, "sha256": checksum(model.state, described), "tensors": list(model.state)}
    metadata = {"overlay": json.dumps(card)}
    if model.hashes is not None and model.hashes.record.inside:
        metadata["overlay_hashes"] = base64.b64encode(model.hashes.to_bytes()).decode()
    # Not its save_file, which makes files that nobody else may read.
    file.write_bytes(save(dict(model.state), metadata=metadata))


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
        RequestError: the download fails, the file does not exist, holds no state_dict, or is a damaged or newer model
            file.
    """
    remote = urlparse(where).scheme in ("http", "https")
    file = download_weights(where) if remote else Path(where)
    try:
        content = read_weights(file, where)
        if not is_state_dict(content):
            raise no_weights(where)
    except RequestError:
        if remote:
            file.unlink()  # else a page that says "not found" would stay in the cache
        raise
    state: StateDict = content if isinstance(content, OrderedDict) else OrderedDict(content.items())
    _check_card(state, where)
    return state


def _card(stored: dict[str, Any]) -> ModelCard:
    values = {name: value for name, value in stored.items() if name not in ("format", "sha256")}
    values |= {name: tuple(values[name]) for name in ("classes", "mean", "std", "head") if name in values}
    style, calibrated = values.pop("overlay"), values.pop("calibrated_on", None)
    return ModelCard(
        **values | {"hashes": parse_record(values.get("hashes"))},
        overlay=None if style is None else OverlayStyle(**style),
        calibrated_on=None if calibrated is None else CalibratedOn(**calibrated),
    )


def _legacy(content: object, options: Legacy, where: str) -> tuple[StateDict, ModelCard]:
    try:
        found = legacy.read_legacy(content)
        described = None if found is None else legacy.complete_legacy(found, options)
    except UnsupportedModel as error:
        raise RequestError(f"{where} {error}") from error
    except Exception as error:  # objects put together by hand lack what every module has
        raise RequestError(f"{where} holds no model that can be read: {one_line(error)}") from error
    if found is None or described is None:
        raise no_weights(where)
    print(f"{where} {described.note}")
    return found.state, ModelCard(
        arch=found.arch,
        classes=described.classes,
        size=described.input.size,
        resize=described.input.resize,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        overlay=None,
        dataset="unknown",
        weights="unknown",
        version="unknown",
        head=found.head,
    )


def _check_card(state: StateDict, where: str) -> None:
    """Refuse a model file of Overlay that is newer or damaged; other weights have no card to check."""
    card: dict[str, Any] | None = getattr(state, "overlay", None)
    if card is None:
        return
    if card["format"] > MODEL_FORMAT:
        raise RequestError(f"{where} has model format {card['format']}, newer than {MODEL_FORMAT}; update overlay")
    if card["sha256"] != checksum(state, {name: value for name, value in card.items() if name != "sha256"}):
        raise RequestError(f"{where} is damaged: its content doesn't match its checksum; copy it again")
    if card["format"] < _SCALED_CONTOURS and card["overlay"] is not None and card["overlay"]["style"] == "contour":
        raise RequestError(
            f"{where} was trained on contours of one width in source pixels, which are not drawn any more; prepare its "
            "dataset and train it anew"
        )
