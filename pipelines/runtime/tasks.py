"""Pieces of work as Ray tasks, a few more in flight than there are CPUs.

What a task makes, it writes to its place itself, and it hands back a few numbers; so nothing grows here with the work.
They are plain tasks: where no stream of rows is needed, Ray Data's actors and its scheduling cost a tenth of two cores,
and several seconds to start.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, TypeVar

import ray
from ray.exceptions import RayError, RayTaskError

from cluster import session
from overlay.errors import WorkError, one_line
from overlay.sources.manifest import Manifest
from overlay.sources.read_plan import ReadUnit
from overlay.sources.reader import read_in_order

_Result = TypeVar("_Result")


def run_in_parallel(work: Callable[..., _Result], calls: Iterable[tuple[Any, ...]]) -> Iterator[_Result]:
    """Call ``work`` in workers, once with the arguments of each call, and yield the results as they come.

    An argument may be a reference to what another task makes. A call is repeated where its worker dies.

    Raises:
        WorkError: a call failed.
    """
    task = ray.remote(num_cpus=1)(work)
    left = iter(calls)
    flying: list[ray.ObjectRef[_Result]] = []
    try:
        while True:
            most = 2 * max(1, int(session.resources().cpus))  # a cluster may grow meanwhile
            flying += [task.remote(*arguments) for arguments in islice(left, max(0, most - len(flying)))]
            if not flying:
                return
            done, flying = ray.wait(flying)
            yield ray.get(done[0])
    except RayTaskError as error:
        cause = error.cause
        raise WorkError(one_line(cause) if isinstance(cause, OSError) else f"a task failed: {cause!r}") from error
    except RayError as error:
        raise WorkError(f"a task failed: {one_line(error)}") from error
    finally:
        for call in flying:
            ray.cancel(call)


def read_inputs(manifest: Manifest, units: Sequence[ReadUnit]) -> Iterator[Any]:
    """Yield for each group of the units a first argument for `in_parallel`: (group, contents).

    Contents are the bytes of each row's image and masks, where the archive can only be read in order; else None.
    """
    for unit in units:
        if not unit.in_order:
            yield from ((group, None) for group in unit.groups)
    in_order = [unit for unit in units if unit.in_order]
    begin = ray.remote(num_cpus=0, max_restarts=3, max_task_retries=3)(ArchivePass)
    at_one_time = max(1, int(session.resources().cpus))
    for start in range(0, len(in_order), at_one_time):
        passes: list[tuple[Any, int]] = [
            (begin.remote(manifest, unit), len(unit.groups)) for unit in in_order[start:][:at_one_time]
        ]
        for number in range(max(groups for _, groups in passes)):
            yield from (archive.group.remote(number) for archive, groups in passes if number < groups)


class ArchivePass:
    """One pass over an archive that can only be read in order; hands on group after group, as they are asked for."""

    def __init__(self, manifest: Manifest, unit: ReadUnit) -> None:
        self._manifest, self._unit = manifest, unit
        self._begin()

    def group(self, number: int) -> tuple[int, list[list[bytes]]]:
        """Return the group that comes ``number`` places after the first."""
        if number < self._next:  # asked again, since its node was lost
            self._begin()
        while True:
            read = next(self._groups)
            self._next += 1
            if self._next > number:
                return read

    def _begin(self) -> None:
        self._groups, self._next = read_in_order(self._manifest, self._unit), 0


class ThroughputMeter:
    """How fast work goes once it has started: the first results, one from each CPU, are left out."""

    def __init__(self) -> None:
        self._starting = max(1, int(session.resources().cpus))
        self._began = 0.0
        self._done = 0

    def rate(self, done: int) -> float | None:
        """Count one result, of ``done`` images; returns images a second, None while the work starts."""
        if self._starting:
            self._starting -= 1
            self._began = time.monotonic()
            return None
        self._done += done
        return self._done / (time.monotonic() - self._began)
