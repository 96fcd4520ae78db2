"""Placement of a job on the cluster: device, number of workers, and CPUs reserved for workers and data tasks."""

from dataclasses import dataclass, field
from typing import Literal

from cluster.session import Resources
from overlay.config import ClusterOptions, Loop
from overlay.errors import RequestError


@dataclass(frozen=True)
class Placement:
    """Device and resources of training workers."""

    device: Literal["cpu", "cuda"]
    least_workers: int
    most_workers: int
    worker_cpus: float
    """CPUs that Ray reserves for each worker; how many threads torch uses does not depend on it"""
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
    there = cluster.gpus if chosen == "cuda" else cluster.cpus
    each = options.gpus_per_worker if chosen == "cuda" else options.worker_cpus or 1
    if config.least_workers * each > there:
        kind = "GPUs" if chosen == "cuda" else "CPUs"
        share = "" if each == 1 else f" with {each:g} each"
        raise RequestError(
            f"train.workers is {config.workers}{share}, but the cluster has {there:g} {kind}; ask for fewer"
        )
    if options.worker_cpus is not None:
        worker_cpus = options.worker_cpus
    elif config.least_workers == config.most_workers:
        worker_cpus = actor_cpus(config.most_workers, cluster)
    elif chosen == "cuda":
        worker_cpus = actor_cpus(min(config.most_workers, int(there / each)), cluster)
    else:
        # Ray Train starts as many workers as a node has room for: one a node, which uses all cores anyway.
        worker_cpus = cluster.node_cpus - 1
        if cluster.node_cpus < 3:
            raise RequestError(
                f"train.workers is {config.workers}, but without GPUs a run can only grow over nodes of 3 CPUs or "
                f"more, and one has {cluster.node_cpus:g}; give one number"
            )
    return Placement(chosen, config.least_workers, config.most_workers, worker_cpus, options)


def actor_cpus(actors: int, cluster: Resources) -> float:
    """Return the CPUs to reserve for each actor that computes, so that one is left for the tasks that feed them.

    Actors that reserved every CPU would deadlock: they wait for tasks that no CPU is left to run.
    """
    return min(1.0, (cluster.cpus - 1) / actors)
