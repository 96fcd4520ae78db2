"""Safe loading of weights from a pickle, safetensors or a URL, without running code that is in them."""

import base64
import hashlib
import json
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any, TypeGuard
from urllib.error import HTTPError

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from overlay.errors import RequestError, one_line
from overlay.models import heads
from overlay.models.network import StateDict

ALLOWED: list[Any] = [
    *(ResNet, BasicBlock, Bottleneck),
    *(nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d, nn.AdaptiveAvgPool2d, nn.Sequential, nn.DataParallel),
    *heads.LAYERS,
    *(nn.Softmax, nn.LogSoftmax),
]
"""classes that may be in a file: those of ResNets, and of the heads that people give them"""


def is_state_dict(content: object) -> TypeGuard[dict[str, Tensor]]:
    """Return whether an object is a dictionary of tensors by their names, and not an empty one."""
    return (
        isinstance(content, dict)
        and len(content) > 0
        and all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in content.items())
    )


def read_weights(file: Path, where: str) -> object:
    """Read a file of ``torch.save`` to the CPU, with tensors and the classes in `ALLOWED` only.

    Raises:
        RequestError: the file does not exist, is damaged, or holds another class.
    """
    try:
        with torch.serialization.safe_globals(ALLOWED):
            return torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise RequestError(f"no weights at {where}; check the path") from None
    except OSError as error:
        raise RequestError(f"the weights at {where} can't be read: {one_line(error)}") from error
    except Exception as error:  # damaged files raise whatever the unpickler meets
        # torch.load's message tells how to switch its protection off, which is no advice to pass on.
        if refused := _refused(error):
            raise RequestError(
                f"{where} holds {refused}, which no ResNet of torchvision is made of and which might run anything, so "
                "it is not read; give a file that torch.save made of model.state_dict()"
            ) from error
        raise no_weights(where) from error


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
        state = OrderedDict((name, state[name]) for name in card.pop("tensors") if name in state)
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


def _refused(error: Exception) -> str | None:
    """Return the name of the object that the weights_only unpickler refused, such as ``posix.system``."""
    found = re.search(r"GLOBAL (\S+) (?:was not an allowed global|whose module \S+ is blocked)", str(error))
    return found[1] if found else None
