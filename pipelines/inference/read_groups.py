"""Reading and decoding stages of a prediction: a Ray Dataset of groups of images, and the tasks that decode them.

A group is some rows of the manifest. Usually only its number is passed on, and the decoding task also reads the
images: Ray Data fuses both stages. An archive that can only be read in order is read by one task, which passes on the
bytes of one group after the other, so that other tasks decode them meanwhile.

This module doesn't import torch: a process of these tasks would take seconds longer to start, and more memory.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import ray.data
from numpy.typing import NDArray
from ray.data import TaskPoolStrategy

from overlay.errors import ErrorKind, Reason
from overlay.sources.decode import DecodedBatch, GroupDecoder
from overlay.sources.manifest import Manifest
from overlay.sources.read_plan import ReadUnit
from overlay.sources.read_units import ReadUnits
from overlay.sources.reader import GroupRequest, group_requests
from pipelines.runtime.numbered_tasks import number_tasks
from pipelines.runtime.retries import TASK_RETRIES

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
_READING_SHARE = 0.25
"""of a task's CPUs, where one task reads in order and others decode"""


@dataclass(frozen=True)
class TaskResources:
    """Resources of the tasks that read and decode."""

    cpus: float
    """CPUs of a task that does both"""
    memory: int
    """bytes that a decoding task asks for"""
    readers: int
    """most tasks at one time that read in order"""


@dataclass(frozen=True)
class GroupRequests:
    """Ray Dataset of groups of images to be decoded."""

    rows: ray.data.Dataset
    """one row for each group: see `GROUP_SCHEMA`"""
    cpus: float
    """CPUs to reserve for a decoding task"""


def read_groups(manifest: Manifest, units: Sequence[ReadUnit], resources: TaskResources) -> GroupRequests:
    """Return the groups of all units as a lazy Ray Dataset; each comes once, in any order."""
    in_order = any(unit.in_order for unit in units)
    cpus, memory, at_one_time = resources.cpus, None if in_order else resources.memory, None
    if in_order:
        # Stages with different resources are not fused. All tasks that read take a quarter of one task's CPUs: they
        # wait for those that decode, which find room wherever a whole task would.
        at_one_time = min(len(units), resources.readers)
        cpus = _READING_SHARE * resources.cpus / at_one_time
    rows = number_tasks(len(units), cpus, memory, at_one_time).map_batches(
        read_unit,  # type: ignore[arg-type]  # Ray's type knows nothing of fn_kwargs
        batch_size=None,
        fn_kwargs={"manifest": manifest, "units": ray.put(ReadUnits(units))},
        compute=TaskPoolStrategy(size=at_one_time),
        num_cpus=cpus,
        memory=memory,
        max_retries=TASK_RETRIES,
    )
    if in_order:
        rows.context.target_max_block_size = _BLOCK_BYTES  # pass on each group as soon as it is read
    return GroupRequests(rows, cpus=(1 - _READING_SHARE) * resources.cpus if in_order else cpus)


def read_unit(
    batch: dict[str, NDArray[np.int64]], manifest: Manifest, units: "ray.ObjectRef[ReadUnits]"
) -> Iterator[pa.Table]:
    """Yield the group requests of one unit (a Ray task)."""
    unit = ray.get(units)[int(batch["id"][0])]
    for request in group_requests(unit, manifest):
        kind = request.fault.kind if request.fault else None
        yield pa.Table.from_pylist([vars(request) | {"fault_kind": kind}], schema=GROUP_SCHEMA)


def decode_groups(chunk: pa.Table, decoder: "ray.ObjectRef[GroupDecoder]") -> DecodedBatch:
    """Decode one group, given as a row of `GROUP_SCHEMA` (a Ray task)."""
    decode: GroupDecoder = ray.get(decoder)
    return decode(request_from_row(chunk))


def request_from_row(chunk: pa.Table) -> GroupRequest:
    """Return the group request of a table of one row with the columns of ``GROUP_SCHEMA``."""
    (row,) = chunk.to_pylist()
    kind, fault = row.pop("fault_kind"), row.pop("fault")
    return GroupRequest(**row, fault=None if fault is None else Reason(fault, ErrorKind(kind)))
