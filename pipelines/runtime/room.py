"""Room for a verb on the cluster: what it needs at least, reserved and waited for before it looks at what is there."""

from cluster import session
from cluster.reservation import Reservation, await_resources
from overlay.config import ClusterOptions, Loop
from overlay.errors import RequestError
from pipelines.runtime.node_shares import scoring_share, task_share
from pipelines.runtime.placement import place_workers

_LEAST_CPUS = 0.5
"""CPUs of a worker on nodes that are still to come, which may have one CPU each; its final share is known once they are
there"""


def await_workers(loop: Loop, options: ClusterOptions) -> None:
    """Wait until the cluster has room for the least training workers and for one task.

    Raises:
        RequestError: there is none, and cluster.wait is 0.
        WorkError: there is none after cluster.wait seconds.
    """
    if not session.may_grow():
        return
    try:
        bundle = place_workers(loop, session.resources(), options).bundle
    except RequestError:  # too little is there: it may come
        gpu = loop.device == "cuda" or (loop.device == "auto" and session.resources().gpus > 0)
        bundle = options.bundle(options.worker_cpus or _LEAST_CPUS, gpu=gpu)
    await_resources(_reservation([bundle] * loop.least_workers, options), options.wait)


def await_actors(device: str, actors: int | None, options: ClusterOptions) -> None:
    """Wait until the cluster has room for processes that hold a model, at least one, and for one task.

    Raises:
        RequestError: there is none, and cluster.wait is 0.
        WorkError: there is none after cluster.wait seconds.
    """
    if not session.may_grow():
        return
    cluster, least = session.resources(), actors or 1
    gpu = device == "cuda" or (device == "auto" and cluster.gpus > 0)
    share = (
        scoring_share(cluster.nodes, least, options.gpus_per_worker if gpu else None)
        if cluster.nodes
        else _LEAST_CPUS / least
    )
    bundle = options.bundle(share if options.worker_cpus is None else options.worker_cpus, gpu=gpu)
    await_resources(_reservation([bundle] * least, options), options.wait)


def await_tasks(options: ClusterOptions) -> None:
    """Wait until the cluster has room for one task.

    Raises:
        RequestError: there is none, and cluster.wait is 0.
        WorkError: there is none after cluster.wait seconds.
    """
    await_resources(Reservation([{"CPU": 1.0}], options.node_labels), options.wait)


def _reservation(bundles: list[dict[str, float]], options: ClusterOptions) -> Reservation:
    return Reservation([*bundles, _task()], options.node_labels, options.placement)


def _task() -> dict[str, float]:
    """Return the resources of a task that reads and decodes, one of which has to fit beside all workers."""
    return {"CPU": task_share(session.resources().nodes)}
