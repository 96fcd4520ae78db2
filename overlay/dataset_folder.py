"""The folder of a prepared dataset while it is made: what may lie there already, and how half a dataset goes on."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

from overlay.dataset import CARD, Request, is_dataset, read_card, request_from
from overlay.errors import RequestError
from overlay.storage import write_atomically

WORK = ".prepare"
"""folder within the dataset's for what is half done; gone once the dataset is complete"""

LISTS = ("manifest.parquet", "rejected.parquet", "duplicates.parquet")
PICTURES = ("contact_sheet.png", "duplicates.png")


def already_prepared(out: Path, request: Request, overwrite: bool) -> bool:
    """Whether ``out`` holds the dataset that is asked for; where not, it may be written to. Changes nothing.

    Raises:
        RequestError: ``out`` holds something else than a dataset of ours, which is never deleted; or a dataset of
            another request, whole or half, and ``overwrite`` is not set.
    """
    if out.exists() and not out.is_dir():
        raise RequestError(f"--out {out} is a file; name a folder")
    ours = is_dataset(out) or (out / WORK).is_dir()
    if out.exists() and not ours and any(out.iterdir()):
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


def begin(out: Path, request: Request, overwrite: bool) -> Path:
    """Make ``out`` ready for this request, keep what an interrupted run of it staged, and return the staging folder.

    Call it only where `already_prepared` was false. The order matters: at every moment the folder can be told for
    ours, and staged files never stand beside the request of others.
    """
    work = out / WORK
    staged = work / "staged"
    if overwrite or _half_done(out) is None:
        work.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(staged, ignore_errors=True)
        with write_atomically(work / "request.json") as temporary:
            temporary.write_text(json.dumps(asdict(request)))
    for name in (CARD, *LISTS, *PICTURES):
        (out / name).unlink(missing_ok=True)
    shutil.rmtree(out / "data", ignore_errors=True)
    staged.mkdir(exist_ok=True)
    (out / "data").mkdir()
    for torn in [*out.glob(".*.tmp"), *work.glob(".*.tmp"), *staged.glob(".*.tmp")]:
        torn.unlink()
    return staged


def _earlier(out: Path) -> Request | None:
    return read_card(out).request if is_dataset(out) else _half_done(out)


def _half_done(out: Path) -> Request | None:
    file = out / WORK / "request.json"
    return request_from(json.loads(file.read_text())) if file.exists() else None
