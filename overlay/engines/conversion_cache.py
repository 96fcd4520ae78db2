"""Cache of models converted for OpenVINO on this machine's disk: the next command with the same model takes it there.

One zip file a model in overlay/openvino below $XDG_CACHE_HOME or ~/.cache, named by a sha256 of all that the conversion
depends on: the model's file and card, this program's code, and the versions of torch and OpenVINO. Where the files take
more than `CACHE_BYTES`, those that were not used for longest go. Without a folder that can be written, or with a file
that is damaged, models are converted as without a cache.
"""

import hashlib
import os
import zipfile
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from overlay.engines.base import OpenVinoModel
from overlay.errors import DiskFullError
from overlay.storage.atomic import write_atomically
from overlay.version import code_fingerprint

if TYPE_CHECKING:
    from overlay.models.model_file import ModelFile  # which imports torch

CACHE_BYTES = 2 * 2**30
_XML, _WEIGHTS = "model.xml", "model.bin"


def cached_conversion(file: "ModelFile", convert: "Callable[[ModelFile], OpenVinoModel]") -> OpenVinoModel:
    """Return the converted model from the cache, or convert it and keep it there.

    A model that was never saved has no checksum, and is not kept.
    """
    if not file.sha256:
        return convert(file)
    place = cache_folder() / f"{_key(file)}.zip"
    with suppress(OSError, zipfile.BadZipFile, KeyError), zipfile.ZipFile(place) as kept:
        model = OpenVinoModel(kept.read(_XML), kept.read(_WEIGHTS))  # each checked by its CRC-32
        os.utime(place)
        return model
    model = convert(file)
    with suppress(OSError, DiskFullError):
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        size = len(model.xml) + len(model.weights)
        with write_atomically(place, size) as temporary, zipfile.ZipFile(temporary, "w") as written:
            written.writestr(_XML, model.xml)
            written.writestr(_WEIGHTS, model.weights)
        _limit(place.parent)
    return model


def cache_folder() -> Path:
    """Return the folder of the converted models, which need not exist (XDG Base Directory Specification 0.8)."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The specification says to ignore a relative path.
    return (Path(base) if base.startswith("/") else Path("~/.cache").expanduser()) / "overlay" / "openvino"


def _key(file: "ModelFile") -> str:
    parts = (file.sha256, repr(file.card), code_fingerprint(), version("torch"), version("openvino"))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _limit(folder: Path) -> None:
    """Delete the files that were not used for longest, while all of them take more than `CACHE_BYTES`."""
    files = sorted(((path.stat(), path) for path in folder.iterdir()), key=lambda each: each[0].st_mtime_ns)
    left = sum(each.st_size for each, _ in files)
    for each, path in files:
        if left <= CACHE_BYTES:
            return
        path.unlink(missing_ok=True)
        left -= each.st_size
