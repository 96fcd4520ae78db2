"""Output folder of a preparation: checks of its contents, resume of an interrupted run, and rejected inputs."""

import json
from dataclasses import asdict

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from overlay.dataset.card import CARD_FILE, DatasetRequest, parse_request, read_card
from overlay.dataset.prepared import is_dataset
from overlay.dataset.schema import REJECTED_SCHEMA
from overlay.errors import RequestError
from overlay.storage.atomic import write_atomically, write_text_atomically
from overlay.storage.filenames import is_temporary
from overlay.storage.parquet import open_parquet
from overlay.storage.path import StoragePath

WORK = ".prepare"
"""folder of staged files and the request in an unfinished dataset; deleted once the dataset is complete"""

LISTS = ("manifest.parquet", "rejected.parquet", "duplicates.parquet")
"""tables beside ``data/``"""
PICTURES = ("contact_sheet.png", "duplicates.png")
"""contact sheets beside ``data/``"""


def already_prepared(out: StoragePath, request: DatasetRequest, overwrite: bool) -> bool:
    """Whether ``out`` holds the complete dataset of this request; else it may be written to. Writes nothing.

    Raises:
        RequestError: ``out`` is a file, holds anything but a dataset of ours, which is never deleted, or holds a
            complete or unfinished dataset of another request and ``overwrite`` is false.
    """
    if out.is_file():
        raise RequestError(f"--out {out} is a file; name a folder")
    ours = is_dataset(out) or (out / WORK).is_folder()
    if not ours and out.contents():
        raise RequestError(f"--out {out} holds something else than a prepared dataset; name an empty or a new folder")
    earlier = _earlier_request(out)
    if earlier is None or overwrite:
        return False
    if difference := earlier.difference(request):
        raise RequestError(
            f"--out {out} holds a dataset of another request: {difference}; replace it with --overwrite, "
            "or name another folder"
        )
    return is_dataset(out)


def begin_dataset(out: StoragePath, request: DatasetRequest, overwrite: bool) -> StoragePath:
    """Prepare ``out`` for this request, keep the staged files of an interrupted run of it, and return their folder.

    Call it only where `already_prepared` returned false. The order matters: after a crash at any point the folder is
    recognised as ours, and staged files never stand beside another request.

    Raises:
        OSError: a file can't be written or deleted.
    """
    work = out / WORK
    staged = work / "staged"
    if overwrite or _unfinished_request(out) is None:
        work.make_folder()
        staged.remove()
        write_text_atomically(work / "request.json", json.dumps(asdict(request)))
    for name in (CARD_FILE, *LISTS, *PICTURES, "data"):
        (out / name).remove()
    for folder in (staged, out / "data"):
        folder.make_folder()
    for folder in (out, work, staged):
        for name in folder.children():
            if is_temporary(name):  # of a killed process
                (folder / name).remove()
    return staged


def forget_request(out: StoragePath) -> None:
    """Delete the staged files of an unfinished run and its request, since inputs may change before the next run.

    Raises:
        OSError: a file can't be deleted.
    """
    (out / WORK / "request.json").remove()
    (out / WORK / "staged").remove()


def write_rejected(out: StoragePath, broken: pa.Table, contradicted: pa.Table) -> pa.Table:
    """Write ``rejected.parquet``: inputs with a reason, and images dropped for a label conflict; return its rows.

    ``broken`` has the columns of ``REJECTED_SCHEMA``; ``contradicted`` has ``id``, ``label`` and ``reason``.

    Raises:
        OSError: the manifest can't be read, or the file can't be written.
    """
    ids = contradicted["id"]
    found = [REJECTED_SCHEMA.empty_table()]
    if len(ids):
        batches = open_parquet(out / "manifest.parquet").iter_batches(columns=["id", "uri"])
        places = pa.Table.from_batches([batch.filter(pc.is_in(batch["id"], ids.combine_chunks())) for batch in batches])
        contradicted = contradicted.append_column("error_kind", pa.nulls(len(ids), pa.string()))
        found.append(contradicted.join(places, "id").select(REJECTED_SCHEMA.names).cast(REJECTED_SCHEMA))
    rejected = pa.concat_tables([broken.select(REJECTED_SCHEMA.names), *found]).sort_by("id")
    with write_atomically(out / "rejected.parquet") as temporary:
        pq.write_table(rejected, temporary)
    return rejected


def _earlier_request(out: StoragePath) -> DatasetRequest | None:
    return read_card(out).request if is_dataset(out) else _unfinished_request(out)


def _unfinished_request(out: StoragePath) -> DatasetRequest | None:
    file = out / WORK / "request.json"
    return parse_request(json.loads(file.read_bytes())) if file.is_file() else None
