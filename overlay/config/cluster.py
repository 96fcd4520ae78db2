"""Options of the cluster that a verb runs on, which all verbs on Ray share."""

from dataclasses import dataclass, field
from typing import Literal

from overlay.config.common import check


@dataclass(frozen=True)
class ClusterOptions:
    """Cluster: what each worker reserves, and how long its nodes are waited for."""

    wait: float = 600.0
    """seconds to wait for nodes that a cluster (RAY_ADDRESS) may add, or that other jobs hold; 0 refuses at once"""
    worker_cpus: float | None = None
    """CPUs that each training worker, or process that holds a model, reserves; default 1, or less where that leaves no
    whole CPU for the tasks that feed it"""
    gpus_per_worker: float = 1.0
    """GPUs that each of them reserves; 0.5 puts two on one GPU"""
    accelerator_type: str | None = None
    """kind of GPU as Ray names it, such as A100, L4, H100"""
    node_labels: dict[str, str] = field(default_factory=dict)
    """Ray's labels of the nodes to use, such as {ray.io/node-group: gpu}; a value may be in(a,b) or !a"""
    memory: float | None = None
    """memory in GiB that each of them reserves"""
    placement: Literal["pack", "spread"] = "pack"
    """pack puts training workers on as few nodes as possible, spread on as many"""

    def __post_init__(self) -> None:
        check(self.wait >= 0, f"cluster.wait is {self.wait}; it must be at least 0 seconds")
        for name in ("worker_cpus", "memory"):
            value = getattr(self, name)
            check(value is None or value > 0, f"cluster.{name} is {value}; it must be above 0")
        share = self.gpus_per_worker
        right = 0 < share < 1 or (share >= 1 and share == int(share))
        check(right, f"cluster.gpus_per_worker is {share}; give a fraction above 0, or a whole number")
        object.__setattr__(self, "node_labels", {str(key): str(value) for key, value in self.node_labels.items()})

    def bundle(self, cpus: float, *, gpu: bool) -> dict[str, float]:
        """Return the resources of one worker that reserves so many CPUs, by Ray's names."""
        resources = {"CPU": cpus}
        if gpu:
            resources["GPU"] = self.gpus_per_worker
        if gpu and self.accelerator_type is not None:
            resources[f"accelerator_type:{self.accelerator_type}"] = 0.001
        if self.memory is not None:
            resources["memory"] = self.memory * 2**30
        return resources
