"""Model file: weights of a network, and the card with classes, input size, normalisation and provenance.

A model file is a plain state_dict, written by ``torch.save``: ``torch.load`` reads it, and torchvision's network of the
same name loads it, without this package. The card is an attribute ``overlay`` of the same dictionary; in safetensors
it is JSON in the metadata. Files of other programs get a card when they are read: see ``overlay/models/legacy.py``.
"""

import base64
import hashlib
import json
import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from overlay.config import MAX_PIXELS, Input, Legacy, OverlayStyle, ResizeRule
from overlay.config.common import check
from overlay.errors import RequestError, UnsupportedModel, one_line
from overlay.models import legacy
from overlay.models.card_fields import read_fields
from overlay.models.legacy_content import find_weights
from overlay.models.legacy_module import module_tensors
from overlay.models.network import IMAGENET_MEAN, IMAGENET_STD, StateDict, architectures, check_input_size
from overlay.models.safe_load import (
    Weight,
    is_state_dict,
    is_url,
    local_weights,
    no_weights,
    read_tensors,
    read_weights,
)
from overlay.models.stored_tensor import StoredTensor
from overlay.models.torchvision_weights import empty_network, fill_network
from overlay.models.training_hashes import HashRecord, TrainingHashes, read_training_hashes, write_beside
from overlay.storage.atomic import write_atomically
from overlay.storage.path import StoragePath

MODEL_FILE = "Resnet_fineTuning.pth"
"""the file's name in the folder of a run"""
MODEL_FORMAT = 4
"""format that this version writes, and the newest that it reads"""
_SCALED_CONTOURS = 4  # first format whose contours are as wide at each image size


_MOST_PIXELS = 10**10


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
    """layers in place of the network's part that its last layer is in (``fc``, ``classifier``), as
    `overlay.models.heads` writes them; none where it is torchvision's own"""
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
    grey_scaling: str = "unknown"
    """how grey values of more than 8 bits were scaled in training; see `overlay.images.depth.GREY_SCALING`"""
    bits: int | None = None
    """bits of 16-bit greys whose files don't say how many they use; None for the full range of the type"""
    max_side: int | None = None
    """longer side, in pixels, to which larger training images were reduced before their masks were drawn, as inputs are
    in a prediction; None where they were not"""

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


def save_model_file(
    path: Path | StoragePath, state: StateDict, card: ModelCard, hashes: TrainingHashes | None = None
) -> None:
    """Write a model file atomically, with the hashes of its images, or with a file of these beside it."""
    if hashes is not None:
        card = replace(card, hashes=hashes.record)
    plain: StateDict = OrderedDict((name, _whole(tensor)) for name, tensor in state.items())
    # load_state_dict looks at the keys only, and weights_only unpickling restores the attributes of an OrderedDict.
    described = card_metadata(card)
    plain.overlay = {**described, "sha256": checksum(plain, described)}  # type: ignore[attr-defined]
    if hashes is not None and hashes.record.inside:
        plain.overlay_hashes = torch.from_numpy(hashes.to_array())  # type: ignore[attr-defined]
    elif hashes is not None:
        write_beside(StoragePath.of(path), hashes)
    size = sum(tensor.nbytes for tensor in plain.values())
    # By an open file, since torch.save would write the temporary file's name into it.
    with write_atomically(path, size=size) as temporary, temporary.open("wb") as file:
        torch.save(plain, file)


def _whole(tensor: Tensor) -> Tensor:
    """Return a tensor as it is written: on the CPU, contiguous, and all of its storage, since that is written whole."""
    plain = tensor.detach().cpu().contiguous()
    return plain if plain.untyped_storage().nbytes() == plain.nbytes else plain.clone()


def load_model_file(path: str | Path | StoragePath, options: Legacy | None = None) -> ModelFile:
    """Read a model file on a disk or in a bucket, given as itself or as the folder of the run that made it.

    A file of another program is read by the rules of ``overlay/models/legacy.py``; what it lacks comes from
    ``options``, or is set as usual, which is then printed.

    Raises:
        RequestError: the file does not exist, holds no model that can be read, was written by a newer version, or is
            damaged; or it has a card, and ``options`` are given, too.
        OSError: the bucket can't be reached.
    """
    place = StoragePath.of(path)
    if not place.exists():
        raise RequestError(f"no weights at {path}; check the path")
    file = place / MODEL_FILE if place.is_folder() else place
    with local_weights(file) as local:
        return _read_model(local, file, options or Legacy())


def _read_model(local: Path, file: StoragePath, options: Legacy) -> ModelFile:
    """Read a model file, whose path on this machine's disk is ``local``, into memory.

    Raises:
        RequestError: as `load_model_file` says.
    """
    content = read_weights(local, str(file))
    stored: object = getattr(content, "overlay", None)
    if stored is not None and is_state_dict(content):
        if given := [field.name for field in fields(Legacy) if getattr(options, field.name) is not None]:
            raise RequestError(f"{file} has a card that says its {given[0]}; leave --legacy.{given[0]} away")
        state, card = _read_own(content, stored, str(file))
    else:
        state, card = _legacy(content, options, str(file))
    with local.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    kept: Weight | None = getattr(content, "overlay_hashes", None)
    hashes = kept.read() if isinstance(kept, StoredTensor) else kept
    binary = None if hashes is None else hashes.numpy().tobytes()
    return ModelFile(str(file), state, card, digest, read_training_hashes(file, card.hashes, binary))


def build_network(file: ModelFile) -> nn.Module:
    """Return the network of a model file, with its weights, in eval mode on the CPU; it gives logits."""
    network = empty_network(file.card.arch, len(file.card.classes), file.card.head)
    fill_network(network, file.state)
    return network.eval()


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
        for part in (tensor,) if tensor.is_contiguous() else tensor:  # an expanded tensor needs no memory for a copy
            digest.update(part.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def read_state(file: Path, where: str) -> Mapping[str, Weight]:
    """Find the state_dict in a file: bare, inside a dictionary, or of a whole model; ``where`` names it in messages.

    A model file of Overlay keeps its card, as the attribute ``overlay``.

    Raises:
        RequestError: the file does not exist, holds no state_dict, or is a damaged or newer model file.
    """
    try:
        content = read_weights(file, where)
        stored: object = getattr(content, "overlay", None)
        if stored is not None and is_state_dict(content):
            return _read_own(content, stored, where)[0]
        return _found_state(content, where)
    except RequestError:
        if is_url(where):
            file.unlink()  # else a page that says "not found" would stay in the cache
        raise


def _found_state(content: object, where: str) -> Mapping[str, Weight]:
    try:
        found = find_weights(content)
        if found is None:
            raise no_weights(where)
        return OrderedDict(module_tensors(found.module)) if found.state is None and found.module else found.state or {}
    except RequestError:
        raise
    except UnsupportedModel as error:
        raise RequestError(f"{where} {error}") from error
    except Exception as error:  # objects put together by hand lack what every module has
        raise RequestError(f"{where} holds no model that can be read: {one_line(error)}") from error


def _read_own(content: dict[str, Weight], stored: object, where: str) -> tuple[StateDict, ModelCard]:
    """Read weights and card of a model file of Overlay.

    Raises:
        RequestError: its format is newer, a field of its card is wrong, its weights are not those of its network, or it
            is damaged.
    """
    described = stored if isinstance(stored, dict) else {}
    values = dict(described)
    version, expected = values.pop("format", None), values.pop("sha256", None)
    if type(version) is not int:
        raise RequestError(f"{where} has a card without a format; it was changed or damaged")
    if version > MODEL_FORMAT:
        raise RequestError(f"{where} has model format {version}, newer than {MODEL_FORMAT}; update overlay")
    try:
        card = read_fields(ModelCard, values, f"the card of {where}")
        _check_values(card)
        network = empty_network(card.arch, len(card.classes), card.head)
    except RequestError as error:
        raise RequestError(str(error) if where in str(error) else f"{where} can't be used: {error}") from error
    known = network.state_dict()
    for name in [*known, *content]:
        shapes = [None if state.get(name) is None else tuple(state[name].shape) for state in (content, known)]
        if shapes[0] != shapes[1]:
            raise RequestError(f"{where} is damaged: {name} is {shapes[0]} there and {shapes[1]} in {card.arch}")
    try:
        state = read_tensors(content)
    except Exception as error:  # damaged files raise whatever reading meets
        raise _damaged(where) from error
    if expected != checksum(state, {name: value for name, value in described.items() if name != "sha256"}):
        raise _damaged(where)
    if version < _SCALED_CONTOURS and card.overlay is not None and card.overlay.style == "contour":
        raise RequestError(
            f"{where} was trained on contours of one width in source pixels, which are not drawn any more; prepare its "
            "dataset and train it anew"
        )
    return state, card


def _check_values(card: ModelCard) -> None:
    """Check the values of a card's fields.

    Raises:
        RequestError: one is out of its range.
    """
    names = card.classes
    check(card.arch in architectures(), f"the card's arch is {card.arch!r}, which torchvision or overlay lacks here")
    right = len(names) >= 2 and len(set(names)) == len(names) and "" not in names
    check(
        right,
        f"the card's classes are {', '.join(map(repr, names[:20]))}; there must be two or more, all different",
    )
    check(32 <= card.size <= 2048, f"the card's size is {card.size}; it must lie between 32 and 2048")
    check(all(0 <= mean <= 1 for mean in card.mean), f"the card's mean is {card.mean}; it must lie between 0 and 1")
    check(all(0 < std <= 10 for std in card.std), f"the card's std is {card.std}; it must lie above 0")
    positive, hashes = card.positive, card.hashes
    for name, right, rule in (
        ("max_pixels", 1 <= card.max_pixels <= _MOST_PIXELS, f"lie between 1 and {_MOST_PIXELS}"),
        ("fold", card.fold is None or card.fold >= 0, "be at least 0"),
        ("temperature", 0 < card.temperature < math.inf, "be a number above 0"),
        ("positive", positive is None or positive in names, "be one of the classes"),
        ("threshold", card.threshold is None or 0 <= card.threshold <= 1, "lie between 0 and 1"),
        ("threshold_n", card.threshold_n >= 0, "be at least 0"),
        ("uncertain_below", card.uncertain_below is None or 0 <= card.uncertain_below <= 1, "lie between 0 and 1"),
        ("hashes", hashes is None or (min(hashes.train, hashes.val) >= 0 <= hashes.distance <= 256), "be possible"),
        ("bits", card.bits is None or 8 <= card.bits <= 16, "lie between 8 and 16"),
        ("max_side", card.max_side is None or card.max_side >= 1, "be at least 1"),
    ):
        check(right, f"the card's {name} is {getattr(card, name)!r:.60}; it must {rule}")


def _legacy(content: object, options: Legacy, where: str) -> tuple[StateDict, ModelCard]:
    try:
        found = legacy.read_legacy(content, options)
        described = None if found is None else legacy.complete_legacy(found, options)
    except UnsupportedModel as error:
        raise RequestError(f"{where} {error}") from error
    except Exception as error:  # objects put together by hand lack what every module has
        raise RequestError(f"{where} holds no model that can be read: {one_line(error)}") from error
    if found is None or described is None:
        raise no_weights(where)
    if described.input.size != legacy.USUAL_INPUT.size:  # which fits every network
        check_input_size(found.arch, described.input.size)
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


def _damaged(where: str) -> RequestError:
    return RequestError(f"{where} is damaged: its content doesn't match its checksum; copy it again")
