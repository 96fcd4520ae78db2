"""Reading stage of a prediction: a Ray Dataset of the groups of images to be decoded.

A group is a row group of the manifest. Usually only its number is passed on, and the decoding task also reads the
images: Ray Data fuses both stages. An archive that can only be read in order is read by one task, which passes on the
bytes of one group after the other, so that other tasks decode them meanwhile.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import ray.data
from numpy.typing import NDArray

from overlay.errors import ErrorKind, Reason
from overlay.sources.manifest import Manifest
from overlay.sources.read_plan import ReadUnit
from overlay.sources.reader import GroupRequest, group_requests

GROUP_SCHEMA = pa.schema(
    [
        ("group", pa.int64()),
        ("positions", pa.list_(pa.int64())),
        ("contents", pa.list_(pa.list_(pa.large_binary()))),
        ("fault", pa.string()),
        ("fault_kind", pa.string()),
    ]
)
"""columns of a `GroupRequest`

positions: rows of the group to be decoded; null for all
contents: bytes of the image and the masks of each row, where they were read in order; else null
fault, fault_kind: reason why reading in order failed; else null
"""
_BLOCK_BYTES = 2**20


@dataclass(frozen=True)
class GroupRequests:
    """Ray Dataset of groups of images to be decoded."""

    rows: ray.data.Dataset
    """one row for each group: see `GROUP_SCHEMA`"""
    cpus: float = 1
    """CPUs to reserve for a decoding task"""


def read_groups(manifest: Manifest, units: Sequence[ReadUnit], memory: int) -> GroupRequests:
    """Return the groups of all units as a lazy Ray Dataset; each comes once, in any order.

    ``memory``: bytes that a decoding task asks for.
    """
    in_order = any(unit.in_order for unit in units)
    rows = ray.data.range(len(units), override_num_blocks=len(units)).map_batches(
        read_unit,  # type: ignore[arg-type]  # Ray's type knows nothing of fn_kwargs
        batch_size=1,
        fn_kwargs={"manifest": manifest, "units": ray.put(units)},
        # Stages with different resources are not fused.
        num_cpus=0.25 if in_order else 1,
        memory=None if in_order else memory,
    )
    if in_order:
        rows.context.target_max_block_size = _BLOCK_BYTES  # pass on each group as soon as it is read
    return GroupRequests(rows, cpus=0.75 if in_order else 1)


def read_unit(
    batch: dict[str, NDArray[np.int64]], manifest: Manifest, units: "ray.ObjectRef[Sequence[ReadUnit]]"
) -> Iterator[pa.Table]:
    """Yield the group requests of one unit (a Ray task)."""
    unit: ReadUnit = ray.get(units)[int(batch["id"][0])]
    for request in group_requests(unit, manifest):
        kind = request.fault.kind if request.fault else None
        yield pa.Table.from_pylist([vars(request) | {"fault_kind": kind}], schema=GROUP_SCHEMA)


def request_from_row(chunk: pa.Table) -> GroupRequest:
    """Return the group request of a table of one row with the columns of ``GROUP_SCHEMA``."""
    (row,) = chunk.to_pylist()
    kind, fault = row.pop("fault_kind"), row.pop("fault")
    return GroupRequest(**row, fault=None if fault is None else Reason(fault, ErrorKind(kind)))
