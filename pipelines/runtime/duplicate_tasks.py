"""Search for near-duplicates in Ray tasks, each of which searches a part of the index over all hashes.

Hashes, the plan and the pairs of each part go from task to task by Ray's object store, where the tasks of a node share
them; the driver holds the pairs only. A task takes about 60 bytes a hash beside them.
"""

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import ray
from ray.exceptions import RayError

from overlay.duplicates.hamming import (
    SMALL_SEARCH,
    SearchPlan,
    join_parts,
    parse_hashes,
    plan_search,
    search_part,
)
from overlay.duplicates.near_duplicates import search_pairs
from overlay.duplicates.pairs import Pairs
from overlay.errors import WorkError
from pipelines.runtime.ray_errors import explain_ray_error
from pipelines.runtime.silence import SilenceWatch, report_silence

_RETRIES = 2


def search_in_tasks(phash: pa.ChunkedArray, distance: int) -> Pairs:
    """Return what `search_pairs` returns; a few hashes are searched by one task.

    Where there are more than 5 million pairs, the links of the spanning forest may be others than those of one process;
    the groups are the same.

    Raises:
        WorkError: a task failed after all of Ray's retries.
    """

    try:
        with report_silence(SilenceWatch("searching near-duplicates")):
            if len(phash) <= SMALL_SEARCH:
                found = _start(search_pairs, phash, distance)
            else:
                plan, number = _start(_plan_parts, phash, distance, returns=2)
                parts = [_start(search_part, plan, 0)]
                parts += [_start(search_part, plan, part, parts[0]) for part in range(1, ray.get(number))]
                found = _start(_join, plan, *parts)
            pairs: Pairs = ray.get(found)
            return pairs
    except RayError as error:
        raise WorkError(explain_ray_error(error)) from error


def _start(work: Callable[..., Any], *arguments: object, returns: int = 1) -> Any:  # noqa: ANN401 - refs of any type
    return ray.remote(num_cpus=1, max_retries=_RETRIES, num_returns=returns)(work).remote(*arguments)


def _plan_parts(phash: pa.ChunkedArray, distance: int) -> tuple[SearchPlan, int]:
    """Plan a search, and return the number of its parts beside it, which the driver needs (a Ray task)."""
    plan = plan_search(parse_hashes(phash), distance)
    return plan, plan.parts


def _join(plan: SearchPlan, *parts: Pairs) -> Pairs:
    return join_parts(plan, parts)
