"""Where the parts of a training run go: the device, and how the CPUs are shared between workers and data tasks."""

from dataclasses import dataclass
from typing import Literal

from cluster.session import Resources
from overlay.config import Loop
from overlay.errors import RequestError


@dataclass(frozen=True)
class Placement:
    """What the workers run on."""

    device: Literal["cpu", "cuda"]
    workers: int
    worker_cpus: float
    """CPUs that Ray reserves for each worker; how many threads torch uses does not depend on it"""
    data_cpus: float
    """CPUs that stay for the tasks that feed all workers together"""


def device(wanted: str, cluster: Resources) -> Literal["cpu", "cuda"]:
    """Choose the device.

    Raises:
        RequestError: cuda is asked for and the cluster has no GPU.
    """
    if wanted == "cuda" and cluster.gpus < 1:
        raise RequestError("device is cuda, but the cluster has no GPU; choose cpu, or join a cluster that has one")
    return "cuda" if wanted != "cpu" and cluster.gpus >= 1 else "cpu"


def place(config: Loop, cluster: Resources) -> Placement:
    """Share the cluster out.

    Raises:
        RequestError: it has fewer CPUs or GPUs than the request needs.
    """
    chosen = device(config.device, cluster)
    there = cluster.gpus if chosen == "cuda" else cluster.cpus
    if config.workers > there:
        kind = "GPUs" if chosen == "cuda" else "CPUs"
        raise RequestError(f"train.workers is {config.workers}, but the cluster has {there:g} {kind}; ask for fewer")
    worker_cpus = actor_cpus(config.workers, cluster)
    return Placement(chosen, config.workers, worker_cpus, cluster.cpus - worker_cpus * config.workers)


def actor_cpus(actors: int, cluster: Resources) -> float:
    """Return the CPUs to reserve for each actor that computes, so that one stays for the tasks that feed them.

    Actors that reserved every CPU would wait for ever for tasks that no CPU is left to run.
    """
    return min(1.0, (cluster.cpus - 1) / actors)
