"""The first stage of a prediction: which group of images a task reads, as Ray Data.

A group is a row group of the manifest. Mostly its number is all that is handed on, and the task that decodes the images
reads them too: Ray Data runs both stages as one. An archive that can only be read in order is read by one task, which
hands on the bytes of group after group, so that many others can decode them meanwhile.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import ray.data
from numpy.typing import NDArray

from overlay.sources.manifest import Manifest
from overlay.sources.read_plan import ReadUnit
from overlay.sources.reader import group_requests

GROUP_SCHEMA = pa.schema(
    [
        ("group", pa.int64()),
        ("positions", pa.list_(pa.int64())),
        ("contents", pa.list_(pa.list_(pa.large_binary()))),
        ("fault", pa.string()),
    ]
)
"""
positions: the rows of the group that are wanted; null where all are
contents: the bytes of the image and the masks of each of them, where they were read already; else null
fault: why they could not be read, where they should have been
"""
_BLOCK_BYTES = 2**20


@dataclass(frozen=True)
class GroupRequests:
    """Groups of images to be decoded."""

    rows: ray.data.Dataset
    """a row for each group: see `GROUP_SCHEMA`"""
    cpus: float = 1
    """what to reserve for the task that decodes a group"""


def read_groups(manifest: Manifest, units: Sequence[ReadUnit]) -> GroupRequests:
    """Plan the reading of groups; each arrives once, in whatever order."""
    in_order = any(unit.in_order for unit in units)
    rows = ray.data.range(len(units), override_num_blocks=len(units)).map_batches(
        read_unit,  # type: ignore[arg-type]  # Ray's type knows nothing of fn_kwargs
        batch_size=1,
        fn_kwargs={"manifest": manifest, "units": ray.put(units)},
        # Tasks that ask for different CPUs are not run as one.
        num_cpus=0.25 if in_order else 1,
    )
    if in_order:
        rows.context.target_max_block_size = _BLOCK_BYTES  # hand on each group as soon as it is there
    return GroupRequests(rows, cpus=0.75 if in_order else 1)


def read_unit(
    batch: dict[str, NDArray[np.int64]], manifest: Manifest, units: "ray.ObjectRef[Sequence[ReadUnit]]"
) -> Iterator[pa.Table]:
    """Hand on the groups of one unit; runs in a worker."""
    unit: ReadUnit = ray.get(units)[int(batch["id"][0])]
    for request in group_requests(unit, manifest):
        yield pa.Table.from_pylist([vars(request)], schema=GROUP_SCHEMA)
