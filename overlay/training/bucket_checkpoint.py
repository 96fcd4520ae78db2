"""Checkpoints of a training run in a bucket, where nothing can be renamed: a marker object makes one complete.

A checkpoint is the objects below ``step-NNNNNNNNN-XXXXXXXX/``, of which the last part is random, and then the marker
``step-NNNNNNNNN-XXXXXXXX.json`` beside them. Names are never used twice, so a worker that was thought dead, and still
writes, can neither change a complete checkpoint nor mix its objects with those of another. Older checkpoints are
deleted after the marker is there.
"""

import json
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict

from overlay.storage.atomic import write_text_atomically
from overlay.storage.path import StoragePath
from overlay.storage.transfer import copy_object, upload_blocks
from overlay.training.history import Epoch

_MARKER = ".json"

Blocks = Callable[[], Iterable[memoryview]]
"""content of an object, block by block; may be called again"""


def complete_in_bucket(checkpoints: StoragePath) -> list[str]:
    """Return the sorted names of the complete checkpoints, those with a marker."""
    names = (name for name in checkpoints.children() if name.startswith("step-") and name.endswith(_MARKER))
    return sorted(name.removesuffix(_MARKER) for name in names)


def remove_others(checkpoints: StoragePath, keep: StoragePath | None) -> None:
    """Remove all checkpoints but a complete one, whole or in part, and other folders; stray objects are left alone.

    Raises:
        OSError: one can't be deleted.
    """
    kept = set() if keep is None else {keep.name, keep.name + _MARKER}
    for name in checkpoints.children():
        ours = name.startswith("step-") or (checkpoints / name).is_folder()
        if ours and name not in kept:
            (checkpoints / name).remove()


def read_marker(folder: StoragePath) -> list[Epoch]:
    """Return the history that a complete checkpoint holds."""
    marker = json.loads((folder.parent / (folder.name + _MARKER)).read_bytes())
    return [Epoch(**row) for row in marker["history"]]


def publish_checkpoint(
    checkpoints: StoragePath, name: str, files: Mapping[str, Blocks | None], history: Sequence[Epoch]
) -> None:
    """Write a checkpoint: its objects, then its marker; then remove those of earlier steps.

    Args:
        checkpoints: folder of all checkpoints.
        name: ``step-NNNNNNNNN``, which sorts as the steps do.
        files: name of an object -> its content; None for a copy of the newest checkpoint's, where it has one.
        history: epochs that are done.

    Raises:
        OSError: an object can't be written.
    """
    complete = complete_in_bucket(checkpoints)
    folder = checkpoints / f"{name}-{secrets.token_hex(4)}"
    for file, blocks in files.items():
        if blocks is not None:
            upload_blocks(folder / file, blocks)
        elif complete and (before := checkpoints / complete[-1] / file).is_file():
            copy_object(before, folder / file)
    marker = {"history": [asdict(epoch) for epoch in history]}
    write_text_atomically(checkpoints / (folder.name + _MARKER), json.dumps(marker))
    for older in complete:
        if older < name:  # never one that another worker has written since
            with suppress(OSError):  # the next command removes it
                (checkpoints / (older + _MARKER)).remove()
                (checkpoints / older).remove()
