"""Nodes of the joined cluster: sizes of those that work, and the resources that are free."""

from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class NodeSize:
    """CPUs, GPUs and object store of a node that has CPUs."""

    cpus: float
    gpus: float = 0.0
    store_bytes: float = 0.0


@dataclass(frozen=True)
class Resources:
    """Nodes of the joined cluster that work, and the CPUs and GPUs that are free of other jobs."""

    nodes: tuple[NodeSize, ...]
    """nodes that have CPUs; a head that is to run no tasks has none"""
    free_cpus: float = 0.0
    free_gpus: float = 0.0

    @property
    def cpus(self) -> float:
        """CPUs of all nodes."""
        return sum(node.cpus for node in self.nodes)

    @property
    def gpus(self) -> float:
        """GPUs of all nodes."""
        return sum(node.gpus for node in self.nodes)

    @property
    def store_bytes(self) -> float:
        """Size in bytes of the smallest object store of these nodes."""
        return min((node.store_bytes for node in self.nodes), default=0.0)


def working_nodes() -> tuple[NodeSize, ...]:
    """Return the nodes of the joined cluster that have CPUs, by size."""
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    return tuple(
        sorted(
            NodeSize(node["CPU"], node.get("GPU", 0.0), node.get("object_store_memory", 0.0))
            for node in nodes
            if node.get("CPU")
        )
    )
