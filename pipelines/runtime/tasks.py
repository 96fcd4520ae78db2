"""Parallel Ray tasks with a bounded number in flight, and throughput.

A task writes its output to storage itself and returns a few numbers, so that the driver's memory doesn't grow with the
work. Plain tasks: where no stream of rows is needed, Ray Data's actors and scheduling cost a tenth of two cores, and
several seconds to start.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, TypeVar

import ray
from ray.exceptions import RayError

from cluster import session
from overlay.errors import ImageError, Reason, WorkError
from overlay.preparation.stage_part import PartInput
from overlay.sources.manifest import Manifest
from overlay.sources.read_plan import ReadUnit
from overlay.sources.reader import read_in_order, unreadable
from pipelines.runtime.ray_errors import explain_ray_error

_Result = TypeVar("_Result")
_RETRIES = 2


def run_in_parallel(
    work: Callable[..., _Result],
    calls: Iterable[tuple[Any, ...]],
    options: Callable[[tuple[Any, ...]], Mapping[str, Any]] = lambda _: {},
) -> Iterator[_Result]:
    """Call ``work`` in Ray tasks, once with the arguments of each call, and yield the results in order of completion.

    An argument may be an ObjectRef of another task's result. A call is retried twice where its worker dies.
    ``options``: from a call to options of its Ray task, such as the memory that it needs.

    Raises:
        WorkError: a call raised an error, or failed after all of Ray's retries.
    """
    # What is pending where a call fails ends with the command. It is not cancelled: a driver of Ray 2.60 that cancels a
    # task whose result arrives at that moment ends without a word ("Tried to complete task that was not pending").
    task = ray.remote(num_cpus=1, max_retries=_RETRIES)(work)
    left = iter(calls)
    pending: list[ray.ObjectRef[_Result]] = []
    try:
        while True:
            most = 2 * max(1, int(session.resources().cpus))  # each time, since a cluster may grow
            pending += [
                task.options(**options(arguments)).remote(*arguments)
                for arguments in islice(left, max(0, most - len(pending)))
            ]
            if not pending:
                return
            done, pending = ray.wait(pending)
            yield ray.get(done[0])
    except RayError as error:
        raise WorkError(explain_ray_error(error)) from error


def read_inputs(manifest: Manifest, units: Sequence[ReadUnit]) -> Iterator[Any]:
    """Yield a `PartInput`, or an ObjectRef of it, for each group of the units: an argument for `run_in_parallel`."""
    for unit in units:
        if not unit.in_order:
            yield from map(PartInput, unit.groups)
    in_order = [unit for unit in units if unit.in_order]
    if not in_order:
        return
    # Calls are bounded by the restarts: where a node is lost, many fail until Ray knows of the loss.
    begin = ray.remote(num_cpus=0, max_restarts=3, max_task_retries=-1)(ArchivePass)
    at_one_time = max(1, int(session.resources().cpus))
    for start in range(0, len(in_order), at_one_time):
        passes: list[tuple[Any, int]] = [
            (begin.remote(manifest, unit), len(unit.groups)) for unit in in_order[start:][:at_one_time]
        ]
        for number in range(max(groups for _, groups in passes)):
            yield from (archive.group.remote(number) for archive, groups in passes if number < groups)


class ArchivePass:
    """Actor of one pass over an archive that can only be read in order; it returns one group after the other."""

    def __init__(self, manifest: Manifest, unit: ReadUnit) -> None:
        self._manifest, self._unit = manifest, unit
        self._fault: Reason | None = None
        self._begin()

    def group(self, number: int) -> PartInput:
        """Return the group with index ``number`` in the unit, and its contents, or the reason why it can't be read."""
        if number < self._next:  # requested again, since its node was lost
            self._begin()
        while self._fault is None:
            try:
                group, contents = next(self._groups)
            except OSError as error:
                self._fault = unreadable(error)
            except ImageError as error:
                self._fault = error.reason
            else:
                self._next += 1
                if self._next > number:
                    return PartInput(group, contents)
        return PartInput(self._unit.groups[number], fault=self._fault)

    def _begin(self) -> None:
        self._groups, self._next = read_in_order(self._manifest, self._unit), 0
        self._fault = None


class ThroughputMeter:
    """Throughput without start-up: the first results, one from each CPU, are not counted."""

    def __init__(self) -> None:
        self._starting = max(1, int(session.resources().cpus))
        self._began = 0.0
        self._done = 0

    def update(self, done: int) -> float | None:
        """Count one result of ``done`` images; return images/s, None during start-up."""
        if self._starting:
            self._starting -= 1
            self._began = time.monotonic()
            return None
        self._done += done
        return self._done / (time.monotonic() - self._began)
