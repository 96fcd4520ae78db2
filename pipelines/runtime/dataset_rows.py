"""Ray Dataset of the decoded rows of a split of a prepared dataset."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import ray.data
from numpy.typing import NDArray

from cluster import session
from overlay.sources.split_reading import SplitReading
from pipelines.runtime.node_shares import task_share
from pipelines.runtime.retries import TASK_RETRIES


def read_on_ray(reading: SplitReading) -> ray.data.Dataset:
    """Return a lazy Ray Dataset of a split's batches.

    Each task reads a part of a shard. Ray's own ``read_parquet`` starts several actors in each execution to find out
    what the shards hold, which takes seconds, and the dataset's card says it.
    """
    shards = len(reading.shards)
    cluster = session.resources()
    parts = max(1, round(cluster.cpus / shards))
    tasks = [{"shard": shard, "part": part} for shard in range(shards) for part in range(parts)]
    rows = ray.data.from_items(tasks, override_num_blocks=len(tasks))
    return rows.map_batches(
        _ReadPart(reading, parts).read,  # type: ignore[arg-type]  # Ray's type knows no such mappings
        batch_size=1,
        num_cpus=task_share(cluster.nodes),
        max_retries=TASK_RETRIES,
    )


@dataclass(frozen=True)
class _ReadPart:
    reading: SplitReading
    parts: int

    def read(self, task: dict[str, NDArray[np.int64]]) -> Iterator[Mapping[str, object]]:
        """Yield the decoded batches of one part of a shard (a Ray task)."""
        yield from self.reading.batches(int(task["shard"][0]), int(task["part"][0]), self.parts)
