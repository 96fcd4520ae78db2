"""Placement of a job on the cluster: device, number of workers, and CPUs reserved for workers and data tasks."""

from dataclasses import dataclass, field
from typing import Literal

from cluster.nodes import NodeSize, Resources
from overlay.config import ClusterOptions, Loop
from overlay.errors import RequestError
from pipelines.runtime.node_shares import actor_share, actor_slots, elastic_share, leaves_room, task_share


@dataclass(frozen=True)
class Placement:
    """Device and resources of training workers."""

    device: Literal["cpu", "cuda"]
    least_workers: int
    most_workers: int
    worker_cpus: float
    """CPUs that Ray reserves for each worker; how many threads torch uses does not depend on it"""
    task_cpus: float = 1.0
    """CPUs that Ray reserves for each data task"""
    options: ClusterOptions = field(default_factory=ClusterOptions)

    def data_cpus(self, workers: int, cluster: Resources) -> float:
        """Return the CPUs that are left for the data tasks of each of so many workers."""
        return max(1.0, cluster.cpus - self.worker_cpus * workers) / workers

    @property
    def bundle(self) -> dict[str, float]:
        """Resources that Ray reserves for each worker."""
        return self.options.bundle(self.worker_cpus, gpu=self.device == "cuda")

    def describe_shortage(self, cluster: Resources, *, queued: bool = False) -> str | None:
        """Return which resources the least workers need and the cluster lacks, in one line; None where it has them.

        With ``queued``, where the workers are pending, the line names the resources that other jobs hold.
        """
        kind, there, free = ("CPUs", cluster.cpus, cluster.free_cpus)
        if self.device == "cuda":
            kind, there, free = ("GPUs", cluster.gpus, cluster.free_gpus)
        needed = self.least_workers * self.bundle[kind[:-1]]
        if needed > there:
            return f"training needs {needed:g} {kind}, and the cluster has {there:g}"
        return f"training needs {needed:g} {kind}, and {free:g} of the cluster's {there:g} are free" if queued else None


def choose_device(wanted: str, cluster: Resources) -> Literal["cpu", "cuda"]:
    """Resolve the option ``device``: auto is cuda where the cluster has a GPU.

    Raises:
        RequestError: ``wanted`` is cuda and the cluster has no GPU.
    """
    if wanted == "cuda" and cluster.gpus < 1:
        raise RequestError("device is cuda, but the cluster has no GPU; choose cpu, or join a cluster that has one")
    return "cuda" if wanted != "cpu" and cluster.gpus >= 1 else "cpu"


def place_workers(config: Loop, cluster: Resources, options: ClusterOptions | None = None) -> Placement:
    """Choose the device and the resources of each training worker.

    Raises:
        RequestError: the cluster has fewer CPUs or GPUs than ``config.workers`` needs.
    """
    options = options or ClusterOptions()
    chosen = choose_device(config.device, cluster)
    gpus_each = options.gpus_per_worker if chosen == "cuda" else None
    _check_room(config, cluster, options, gpus_each)
    nodes, most = cluster.nodes, config.most_workers
    if gpus_each is not None:
        most = min(most, actor_slots(nodes, 0, gpus_each))
    if options.worker_cpus is not None:
        worker_cpus = options.worker_cpus
    elif gpus_each is not None or config.least_workers == most:
        worker_cpus = actor_share(nodes, most, gpus_each)
    else:
        worker_cpus = _elastic_cpus(config, nodes)
    return Placement(chosen, config.least_workers, config.most_workers, worker_cpus, task_share(nodes), options)


def _check_room(config: Loop, cluster: Resources, options: ClusterOptions, gpus_each: float | None) -> None:
    """Check that the nodes have room for the least workers, and for a data task beside them."""
    nodes, least = cluster.nodes, config.least_workers
    kind, there, each = ("CPUs", cluster.cpus, options.worker_cpus or 1)
    slots = int(there)
    if gpus_each is not None:
        kind, there, each = "GPUs", cluster.gpus, gpus_each
    if gpus_each is not None or options.worker_cpus is not None:
        slots = actor_slots(nodes, options.worker_cpus or 0, gpus_each)
    share = "" if each == 1 else f" with {each:g} each"
    if least > slots:
        room = "" if least * each > there else f", and its nodes have room for {slots} workers"
        raise RequestError(
            f"train.workers is {config.workers}{share}, but the cluster has {there:g} {kind}{room}; ask for fewer"
        )
    most, together = config.most_workers, least == config.most_workers
    if options.worker_cpus is not None and not leaves_room(
        nodes, most, options.worker_cpus, gpus_each, together=together
    ):
        less = actor_share(nodes, least, gpus_each)
        raise RequestError(
            f"cluster.worker_cpus is {options.worker_cpus:g} for {least} workers, which can leave no CPU for the tasks "
            f"that feed them, at the latest once a node is lost; {less:g} leaves one"
        )


def _elastic_cpus(config: Loop, nodes: tuple[NodeSize, ...]) -> float:
    """Return the CPUs of each worker of a run that grows without GPUs.

    Ray Train starts as many workers as a node has room for: one a node, which uses all cores anyway.
    """
    share = elastic_share(nodes, config.most_workers)
    if share is None or actor_slots(nodes, share, None) < config.least_workers:
        sizes = " and ".join(f"{cpus:g}" for cpus in sorted({node.cpus for node in nodes}))
        raise RequestError(
            f"train.workers is {config.workers}, but without GPUs a run can only grow over nodes of 3 CPUs or more, of "
            f"one size at best, and these have {sizes}; give one number"
        )
    return share
