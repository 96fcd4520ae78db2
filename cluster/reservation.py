"""Reservation of resources on a cluster: waiting for nodes that come, with a placement group that autoscalers hear.

A sum over the cluster says nothing of what fits on a node, and is zero on a cluster that grows from zero. So what a job
asks for is reserved as a placement group: Ray places it, or reports it to the autoscaler as pending. Once it is placed
it is removed again, since the job reserves the same by its own actors.
"""

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from cluster import session
from overlay.errors import RequestError, WorkError

Bundle = Mapping[str, float]
_NAMES = ("GPU", "CPU", "memory")
"""resources by Ray's names, what is rarest first"""
_POLL_SECONDS = 1.0
FIRST_REPORT = 3.0
"""seconds before the first line about a wait"""
REPORT_EVERY = 30.0
"""seconds between two lines about a wait"""
AT_ONCE = 5.0
"""seconds that placing takes at most where nodes have room"""


@dataclass(frozen=True)
class Reservation:
    """Resources that have to be there at the same time."""

    bundles: Sequence[Bundle]
    """resources of each actor or task, which must fit on one node"""
    labels: Mapping[str, str] = field(default_factory=dict)
    """labels of the nodes"""
    placement: Literal["pack", "spread"] = "pack"

    def describe(self) -> str:
        """Return all resources in words, such as "2 GPUs and 3 CPUs"."""
        text = " and ".join(_amount(name, self.total(name)) for name in _NAMES if self.total(name))
        if self.labels:
            text += " on nodes with " + ", ".join(f"{name}: {value}" for name, value in self.labels.items())
        return text

    def total(self, name: str) -> float:
        """Return the sum of a resource over all bundles."""
        return sum(bundle.get(name, 0.0) for bundle in self.bundles)

    def missing(self, nodes: Sequence[Bundle], free: Bundle) -> str:
        """Return what is missing, given the resources of each node and those that are free of other jobs."""
        wanted = {name for bundle in self.bundles for name in bundle}
        for kind in sorted(name for name in wanted if name.startswith("accelerator_type:")):
            if not any(node.get(kind) for node in nodes):
                return f"no node has a GPU of the kind {kind.partition(':')[2]}"
        names = [name for name in _NAMES if name in wanted]
        sums = {name: sum(node.get(name, 0.0) for node in nodes) for name in names}
        for name in names:
            if sums[name] < self.total(name):
                return f"{_number(name, sums[name])} of {_amount(name, self.total(name))} there"
        for bundle in self.bundles:
            if not any(all(node.get(name, 0.0) >= number for name, number in bundle.items()) for node in nodes):
                one = " and ".join(_amount(name, bundle[name]) for name in names if name in bundle)
                return f"none of the {len(nodes)} nodes has {one or 'them'}"
        for name in names:
            if free.get(name, 0.0) < self.total(name):
                return f"{_number(name, free.get(name, 0.0))} of {_amount(name, sums[name])} free of other jobs"
        return "all there, but not on nodes that have all of it free" + (" and the labels" if self.labels else "")


def await_resources(reservation: Reservation, wait: float) -> None:
    """Wait until the joined cluster has room for a reservation, for at most ``wait`` seconds; say what is missing.

    A local session doesn't grow: there this returns at once.

    Raises:
        RequestError: ``wait`` is 0 and the room is not there.
        WorkError: the room was not there after ``wait`` seconds.
    """
    if not session.may_grow():
        return
    from ray.util import placement_group, remove_placement_group

    # Ray takes no zeros, which stand where a share of nothing is left.
    bundles = [{name: number for name, number in bundle.items() if number} for bundle in reservation.bundles]
    bundles = [bundle for bundle in bundles if bundle]
    group = placement_group(
        bundles,
        strategy=reservation.placement.upper(),
        bundle_label_selector=[dict(reservation.labels)] * len(bundles) if reservation.labels else None,
    )
    began = reported = time.monotonic()
    try:
        while not group.wait(_POLL_SECONDS):
            now = time.monotonic()
            if now - began >= max(wait, AT_ONCE):
                _give_up(reservation, wait)
            due = FIRST_REPORT if reported == began else REPORT_EVERY
            if now - reported >= due and wait:
                reported = now
                print(
                    f"waiting for {reservation.describe()}: {_missing(reservation)}, {now - began:.0f} s",
                    file=sys.stderr,
                    flush=True,
                )
    finally:
        remove_placement_group(group)


def _give_up(reservation: Reservation, wait: float) -> None:
    """Raise the error of a reservation that was not placed in time."""
    what, missing = reservation.describe(), _missing(reservation)
    if wait == 0:
        raise RequestError(
            f"the cluster has no room for {what}: {missing}; ask for less, or let --cluster.wait be the seconds in "
            "which nodes may come"
        )
    raise WorkError(
        f"gave up after waiting {wait:g} s for {what}: {missing}; the same command goes on once it is there "
        "(--cluster.wait gives it longer)"
    )


def _missing(reservation: Reservation) -> str:
    return reservation.missing(*session.node_resources())


def _number(name: str, amount: float) -> str:
    return f"{amount / 2**30:.3g} GiB of memory" if name == "memory" else f"{amount:g}"


def _amount(name: str, amount: float) -> str:
    """Return an amount of a resource in words."""
    if name == "memory":
        return _number(name, amount)
    return f"{amount:g} {name}" + ("s" if amount != 1 else "")
