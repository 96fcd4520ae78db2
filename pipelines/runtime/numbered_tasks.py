"""Ray Dataset of numbers, one a block: the beginning of a plan whose first function makes the rows of a task."""

import ray.data
from ray.data._internal.datasource.range_datasource import RangeDatasource

from pipelines.runtime.retries import TASK_RETRIES


def number_tasks(
    tasks: int, num_cpus: float, memory: int | None = None, at_one_time: int | None = None
) -> ray.data.Dataset:
    """Return a lazy dataset with the column ``id``, 0 to ``tasks`` - 1, one row a block.

    Ray Data fuses it with a function that is mapped over whole blocks where both ask for the same resources;
    `ray.data.range` takes none, and asks for a whole CPU.

    Args:
        tasks: number of rows, each of which is to become a task.
        num_cpus: CPUs to reserve for a task.
        memory: bytes to reserve for a task.
        at_one_time: most tasks that run at one time.
    """
    numbers = RangeDatasource(n=tasks, block_format="arrow", column_name="id")
    dataset: ray.data.Dataset = ray.data.read_datasource(
        numbers,
        num_cpus=num_cpus,
        memory=memory,
        ray_remote_args={"max_retries": TASK_RETRIES},
        concurrency=at_one_time,
        override_num_blocks=tasks,
    )
    return dataset
