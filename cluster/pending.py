"""Work that waits for resources of the cluster, in words: what is pending, and what is missing for it."""

import sys
from collections.abc import Sequence

from cluster import session
from cluster.reservation import Bundle, Reservation

_MOST = 3
"""kinds of pending requests that are named"""


def describe_pending() -> str | None:
    """Return what waits for resources of the joined cluster and what is missing; None without a Ray session.

    Asks Ray's head, which keeps the tasks, actors and placement groups that no node has room for.
    """
    if "ray" not in sys.modules:
        return None
    import ray

    if not ray.is_initialized():
        return None
    from ray.exceptions import RayError

    try:
        single, groups = _pending_requests()
        nodes, free = session.node_resources()
    except (RayError, RuntimeError) as error:
        return f"the head of the cluster does not answer: {' '.join(str(error).split())[:200]}"
    return describe_requests(single, groups, nodes, free)


def describe_requests(
    single: Sequence[tuple[int, Bundle]], groups: Sequence[Sequence[Bundle]], nodes: Sequence[Bundle], free: Bundle
) -> str:
    """Return pending requests in one line, with what the nodes lack for each.

    Args:
        single: resources of tasks and actors, with the number of each.
        groups: bundles of placement groups.
        nodes: resources of each node.
        free: resources of all nodes that nothing reserves.
    """
    named = [
        f"{count} {'task or actor' if count == 1 else 'tasks or actors'} of "
        + _describe(Reservation([bundle]), nodes, free)
        for count, bundle in single
    ]
    named += [f"workers of {_describe(Reservation(bundles), nodes, free)}" for bundles in groups]
    if not named:
        return "nothing waits for resources; what runs takes that long"
    more = f", and {len(named) - _MOST} more" if len(named) > _MOST else ""
    return f"pending: {', '.join(named[:_MOST])}{more}"


def _describe(reservation: Reservation, nodes: Sequence[Bundle], free: Bundle) -> str:
    return f"{reservation.describe() or 'resources of their own'} ({reservation.missing(nodes, free)})"


def _pending_requests() -> tuple[list[tuple[int, Bundle]], list[list[Bundle]]]:
    """Return the pending requests of tasks and actors, and of placement groups."""
    from ray._private.worker import global_worker
    from ray.autoscaler.v2.sdk import get_cluster_resource_state

    state = get_cluster_resource_state(global_worker.gcs_client)  # type: ignore[attr-defined]  # once it is connected
    single: list[tuple[int, Bundle]] = [
        (each.count, dict(each.request.resources_bundle)) for each in state.pending_resource_requests
    ]
    gangs = state.pending_gang_resource_requests
    groups: list[list[Bundle]] = [[dict(each.resources_bundle) for each in gang.requests] for gang in gangs]
    return single, groups
