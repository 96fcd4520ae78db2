"""The first stage of prepare and predict: which group of images a task reads, as Ray Data.

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

from overlay.reading import Unit, read_in_order
from overlay.storage import Place

GROUP_SCHEMA = pa.schema([("group", pa.int64()), ("contents", pa.list_(pa.list_(pa.large_binary())))])
"""contents: the bytes of the image and the masks of each row, where they were read already; else null"""
_BLOCK_BYTES = 2**20


@dataclass(frozen=True)
class Groups:
    """Groups of images to be decoded."""

    rows: ray.data.Dataset
    """a row for each group: see `GROUP_SCHEMA`"""
    cpus: float = 1
    """what to reserve for the task that decodes a group"""


def read_groups(manifest: Place, units: Sequence[Unit]) -> Groups:
    """Plan the reading of groups; each arrives once, in whatever order."""
    in_order = any(unit.in_order for unit in units)
    rows = ray.data.range(len(units), override_num_blocks=len(units)).map_batches(
        read_unit,  # type: ignore[arg-type]  # Ray's type knows nothing of fn_kwargs
        batch_size=1,
        fn_kwargs={"manifest": manifest, "units": units},
        # Tasks that ask for different CPUs are not run as one.
        num_cpus=0.25 if in_order else 1,
    )
    if in_order:
        rows.context.target_max_block_size = _BLOCK_BYTES  # hand on each group as soon as it is there
    return Groups(rows, cpus=0.75 if in_order else 1)


def read_unit(batch: dict[str, NDArray[np.int64]], manifest: Place, units: Sequence[Unit]) -> Iterator[pa.Table]:
    """Hand on the groups of one unit; runs in a worker."""
    unit = units[int(batch["id"][0])]
    if not unit.in_order:
        yield pa.table({"group": unit.groups, "contents": [None]}, schema=GROUP_SCHEMA)
        return
    for group, contents in read_in_order(manifest, unit):
        yield pa.table({"group": [group], "contents": [contents]}, schema=GROUP_SCHEMA)
