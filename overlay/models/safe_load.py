"""Safe loading of weights from files of ``torch.save``, safetensors or a URL, without running code that is in them."""

import base64
import hashlib
import json
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeGuard
from urllib.error import HTTPError
from urllib.parse import urlparse
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from overlay.errors import RequestError, UnsupportedModel, one_line
from overlay.models.file_kinds import file_kind, foreign_kind
from overlay.models.inert_pickle import RefusedName
from overlay.models.network import StateDict
from overlay.models.stored_tensor import StoredTensor
from overlay.models.torch_file import read_torch_pickles, read_torch_zip
from overlay.storage.path import StoragePath
from overlay.storage.transfer import local_copy

Weight = Tensor | StoredTensor
"""tensor in memory, or in a file"""


def is_state_dict(content: object) -> TypeGuard[dict[str, Weight]]:
    """Return whether an object is a dictionary of tensors by their names, and not an empty one."""
    return (
        isinstance(content, dict)
        and len(content) > 0
        and all(isinstance(name, str) and isinstance(tensor, Weight) for name, tensor in content.items())
    )


def read_tensors(state: Mapping[str, Weight]) -> StateDict:
    """Read the tensors of a state_dict that are in a file; attributes of an OrderedDict are kept.

    Raises:
        UnpicklingError: the file is damaged.
    """
    read: StateDict = OrderedDict(
        (name, tensor.read() if isinstance(tensor, StoredTensor) else tensor) for name, tensor in state.items()
    )
    if isinstance(state, OrderedDict):
        vars(read).update(vars(state))
    return read


def read_weights(file: Path, where: str) -> object:
    """Read the content of a file of weights, with tensors that are read when they are needed; nothing in it is run.

    Raises:
        RequestError: the file does not exist, is damaged or of another kind, or names a class or function that is no
            part of a network.
    """
    try:
        kind = file_kind(file)
        if kind == "safetensors":
            return read_safetensors(file)
        if kind is None:
            raise RequestError(f"{where} {foreign_kind(file)}")
        return read_torch_zip(file) if kind == "torch zip" else read_torch_pickles(file)
    except RequestError:
        raise
    except FileNotFoundError:
        raise RequestError(f"no weights at {where}; check the path") from None
    except OSError as error:
        raise RequestError(f"the weights at {where} can't be read: {one_line(error)}") from error
    except UnsupportedModel as error:
        raise RequestError(f"{where} {error}") from error
    except RefusedName as error:
        raise RequestError(
            f"{where} holds {error.name}, which is no part of torchvision's networks and might run anything, so it is "
            "not read; give a file that torch.save made of model.state_dict()"
        ) from error
    except BadZipFile as error:
        raise RequestError(f"{where} is damaged: its content doesn't match its checksum; copy it again") from error
    except Exception as error:  # damaged files raise whatever the unpickler meets
        raise RequestError(f"{where} {foreign_kind(file)}") from error


def read_safetensors(file: Path) -> StateDict:
    """Read a state_dict with its card from a file that ``overlay export`` wrote.

    Raises:
        RequestError: the file does not exist, or is damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
            card = json.loads(metadata.get("overlay", "null"))
            state: StateDict = OrderedDict((name, opened.get_tensor(name)) for name in opened.keys())  # noqa: SIM118
    except FileNotFoundError:
        raise RequestError(f"no weights at {file}; check the path") from None
    except (OSError, SafetensorError, ValueError) as error:
        raise RequestError(f"{file} is no safetensors file that can be read: {one_line(error)}") from error
    if card is not None:
        order = card.pop("tensors", None) if isinstance(card, dict) else None
        if not isinstance(order, list) or sorted(map(str, order)) != sorted(state):
            raise RequestError(f"{file} has a card that doesn't list its tensors; export the model again")
        state = OrderedDict((name, state[name]) for name in order)
        state.overlay = card  # type: ignore[attr-defined]
        if "overlay_hashes" in metadata:
            binary = np.frombuffer(base64.b64decode(metadata["overlay_hashes"]), np.uint8).copy()
            state.overlay_hashes = torch.from_numpy(binary)  # type: ignore[attr-defined]
    return state


def no_weights(where: str) -> RequestError:
    """Return the error for a file that holds no state_dict."""
    return RequestError(
        f"{where} holds no state_dict, or a damaged one; give a file that torch.save made of model.state_dict()"
    )


def is_url(where: str) -> bool:
    """Whether weights are to be downloaded (http, https)."""
    return urlparse(where).scheme in ("http", "https")


@contextmanager
def local_weights(where: str | StoragePath) -> Iterator[Path]:
    """Yield a local path of a file of weights on a disk, in a bucket or at a URL (http, https).

    A download stays in torch's cache; the copy of an object is deleted when the block ends.

    Raises:
        RequestError: the download fails, there is no such object, or it is no address that can be used.
        OSError: the bucket can't be reached.
    """
    if isinstance(where, str) and is_url(where):
        yield download_weights(where)
        return
    place = StoragePath.of(where)
    if place.in_bucket and not place.is_file():
        raise RequestError(f"no weights at {place}; check the path")
    with local_copy(place) as file:
        yield file


def download_weights(url: str) -> Path:
    """Download weights to torch's cache, once; the cache key is the whole URL, since many end in `model.pth`.

    Raises:
        RequestError: the download fails.
    """
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    file = folder / f"{hashlib.sha256(url.encode()).hexdigest()[:16]}.pth"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(file), progress=False)
        except Exception as error:  # URLs and servers go wrong in more ways than OSError covers
            raise RequestError(f"the weights at {url} can't be downloaded: {download_failure(error)}") from error
    return file


def download_failure(error: Exception) -> str:
    """Return the reason of a failed download in one line, and close the connection that an HTTPError holds open."""
    if isinstance(error, HTTPError):
        error.close()
    return one_line(error)
