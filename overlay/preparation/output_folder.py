"""The folder of a prepared dataset while it is made: what may lie there already, and how half a dataset goes on."""

import json
from dataclasses import asdict

from overlay.dataset.card import CARD_FILE, DatasetRequest, read_card, request_from
from overlay.dataset.prepared import is_dataset
from overlay.errors import RequestError
from overlay.storage.atomic import write_text_atomically
from overlay.storage.path import StoragePath

WORK = ".prepare"
"""folder within the dataset's for what is half done; gone once the dataset is complete"""

LISTS = ("manifest.parquet", "rejected.parquet", "duplicates.parquet")
PICTURES = ("contact_sheet.png", "duplicates.png")


def already_prepared(out: StoragePath, request: DatasetRequest, overwrite: bool) -> bool:
    """Whether ``out`` holds the dataset that is asked for; where not, it may be written to. Changes nothing.

    Raises:
        RequestError: ``out`` holds something else than a dataset of ours, which is never deleted; or a dataset of
            another request, whole or half, and ``overwrite`` is not set.
    """
    if out.is_file():
        raise RequestError(f"--out {out} is a file; name a folder")
    ours = is_dataset(out) or (out / WORK).is_folder()
    if not ours and out.children():
        raise RequestError(f"--out {out} holds something else than a prepared dataset; name an empty or a new folder")
    earlier = _earlier(out)
    if earlier is None or overwrite:
        return False
    if difference := earlier.difference(request):
        raise RequestError(
            f"--out {out} holds a dataset of another request: {difference}; replace it with --overwrite, "
            "or name another folder"
        )
    return is_dataset(out)


def begin_dataset(out: StoragePath, request: DatasetRequest, overwrite: bool) -> StoragePath:
    """Make ``out`` ready for this request, keep what an interrupted run of it staged, and return the staging folder.

    Call it only where `already_prepared` was false. The order matters: at every moment the folder can be told for
    ours, and staged files never stand beside the request of others.
    """
    work = out / WORK
    staged = work / "staged"
    if overwrite or _half_done(out) is None:
        work.make_folder()
        staged.remove()
        write_text_atomically(work / "request.json", json.dumps(asdict(request)))
    for name in (CARD_FILE, *LISTS, *PICTURES, "data"):
        (out / name).remove()
    for folder in (staged, out / "data"):
        folder.make_folder()
    for folder in (out, work, staged):
        for name in folder.children():
            if name.startswith(".") and name.endswith(".tmp"):  # torn
                (folder / name).remove()
    return staged


def forget_request(out: StoragePath) -> None:
    """Drop what an unfinished run staged, and its request: files may be mended in place before the next run."""
    (out / WORK / "request.json").remove()
    (out / WORK / "staged").remove()


def _earlier(out: StoragePath) -> DatasetRequest | None:
    return read_card(out).request if is_dataset(out) else _half_done(out)


def _half_done(out: StoragePath) -> DatasetRequest | None:
    file = out / WORK / "request.json"
    return request_from(json.loads(file.read_bytes())) if file.is_file() else None
