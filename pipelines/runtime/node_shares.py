"""Shares of CPUs for actors and tasks, from the sizes of the nodes: one task fits on some node, wherever actors are.

Actors hold a model and wait for the tasks that feed them. Ray places an actor on any node that has room for it, and on
another one where it starts again; it knows nothing of tasks that are still to come. So actors that left a CPU free in
all, but on no single node, would wait forever (ray-project/ray#44687, #62746). The functions here take the worst
placement, and allow for the loss of any one node. They compute in ten-thousandths of a CPU, as Ray does.
"""

import math
from collections.abc import Iterator, Sequence

from cluster.nodes import NodeSize

_UNITS = 10_000
"""of one CPU or GPU in Ray's accounts"""
_MANY = 1_000_000
"""actors that fit on a node where they reserve no CPU"""
_TASK_SHARE = 0.75
"""share of its only CPU that a task takes on a node; above a half, so that there is one at a time"""


def task_share(nodes: Sequence[NodeSize]) -> float:
    """Return the CPUs of a task that reads and decodes: 1, or less where a lost node may leave only nodes of 1 CPU."""
    sizes = sorted((node.cpus for node in nodes), reverse=True)
    if not sizes:
        return 1.0
    kept = sizes[min(1, len(sizes) - 1)]  # the largest may be the one that is lost
    return 1.0 if kept > 1 else _TASK_SHARE * kept


def actor_share(nodes: Sequence[NodeSize], actors: int, gpus_each: float | None = None) -> float:
    """Return the most CPUs, at most 1, that each of so many actors may reserve; see `keeps_room`.

    ``gpus_each``: GPUs that each reserves, which bound the actors on a node; None without GPUs.
    """
    task = task_share(nodes)
    rooms = {node.cpus - task for node in nodes if node.cpus > task}
    shares = {min(1.0, _floor(room / number)) for room in rooms for number in range(1, actors + 1)}
    return next((each for each in sorted(shares, reverse=True) if keeps_room(nodes, actors, each, gpus_each)), 0.0)


def scoring_share(nodes: Sequence[NodeSize], actors: int, gpus_each: float | None) -> float:
    """Return the CPUs that each of so many actors reserves for prediction: none with a GPU.

    Such an actor waits for its GPU most of the time, and a core that it reserved would not decode. A training worker
    keeps a core busy by itself.
    """
    return actor_share(nodes, actors) if gpus_each is None else 0.0


def keeps_room(nodes: Sequence[NodeSize], actors: int, share: float, gpus_each: float | None = None) -> bool:
    """Whether actors fit and some node has room for a task beside them, also after the loss of one of several nodes.

    With GPUs, actors that find none wait, and take no CPU.
    ``share``: CPUs that each actor reserves.
    """
    slots = [_most_actors(node, share, None) for node in nodes]
    kept = sum(slots) - (max(slots) if len(slots) > 1 else 0)
    return (gpus_each is not None or actors <= kept) and leaves_room(nodes, actors, share, gpus_each)


def leaves_room(
    nodes: Sequence[NodeSize], actors: int, share: float, gpus_each: float | None = None, *, together: bool = False
) -> bool:
    """Whether up to so many actors leave room for a task, wherever they are, also after the loss of one of the nodes.

    ``together``: they start all or none, as training workers do; those that don't fit then wait, and take no CPU.
    """
    task, limits = task_share(nodes), list[tuple[float, int]]()
    for node in nodes:
        most = _most_actors(node, share, gpus_each)
        limits.append((_blocking_actors(node, share, task, most), most))
    return all(
        actors < sum(blocking for blocking, _ in left) or (together and actors > sum(most for _, most in left))
        for left in _with_losses(limits)
    )


def actor_slots(nodes: Sequence[NodeSize], share: float, gpus_each: float | None) -> int:
    """Return how many actors of a share fit on the nodes; 0 for ``share`` stands for one that is still to be chosen."""
    return sum(_most_actors(node, share, gpus_each) for node in nodes)


def elastic_share(nodes: Sequence[NodeSize], most: int) -> float | None:
    """Return the CPUs of each of up to ``most`` workers without GPUs, about one a node of 3 CPUs or more; None if none.

    Ray Train starts as many workers as the nodes have room for. So a node that is full of workers must have a CPU left,
    two nodes of several, since one may be lost.
    """
    large = [node.cpus for node in nodes if node.cpus >= 3]
    if not large:
        return None
    shares = {_floor((cpus - 1) / number) for cpus in large for number in range(1, int(cpus))}
    chosen = (share for share in sorted(shares, reverse=True) if 1 <= share <= min(large) - 1)
    return next((share for share in chosen if leaves_room(nodes, most, share)), None)


def _with_losses(limits: list[tuple[float, int]]) -> Iterator[list[tuple[float, int]]]:
    """Yield the limits of all nodes, and those that are left after each kind of loss of one of several nodes."""
    yield limits
    for lost in set(limits) if len(limits) > 1 else ():
        left = limits.copy()
        left.remove(lost)
        yield left


def _blocking_actors(node: NodeSize, share: float, task: float, most: float) -> float:
    """Return the fewest actors that leave no room for a task on a node; infinity where it has room beside the most."""
    room = _units(node.cpus) - _units(task)
    if room < 0:
        return 0
    fewest = room // _units(share) + 1 if _units(share) else math.inf
    return fewest if fewest <= most else math.inf


def _most_actors(node: NodeSize, share: float, gpus_each: float | None) -> int:
    """Return the most actors that fit on a node."""
    by_cpus = _units(node.cpus) // _units(share) if _units(share) else _MANY
    return by_cpus if gpus_each is None else min(by_cpus, _units(node.gpus) // _units(gpus_each))


def _units(amount: float) -> int:
    return round(amount * _UNITS)


def _floor(amount: float) -> float:
    """Return an amount rounded down to what Ray can reserve."""
    return math.floor(round(amount * _UNITS, 3)) / _UNITS
