"""Ray tasks that stage a preparation's images, and try inputs that can't be read again on another node."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from overlay.config import Prepare
from overlay.errors import WorkError
from overlay.preparation.stage_part import PartInput, StagedPart, stage_part
from overlay.sources.manifest import Manifest
from overlay.sources.read_plan import ReadUnit
from overlay.storage.path import StoragePath
from pipelines.runtime.task_memory import node_memory, task_bytes
from pipelines.runtime.tasks import read_inputs, run_in_parallel


def stage_groups(
    manifest: Manifest, units: Sequence[ReadUnit], staged: StoragePath, config: Prepare, allowed: int
) -> Iterator[StagedPart]:
    """Stage all groups of the units, and yield the outcomes.

    A group with an input that can't be read is staged again on another node, where there is one, when the others are
    done. ``allowed``: most inputs that may still be unreadable then.

    Raises:
        WorkError: more inputs can't be read, or a task failed; staged files of other groups stay.
    """
    unread: dict[int, str] = {}
    most = node_memory()
    memory = {group: min(most, task_bytes(unit.largest, config.limits)) for unit in units for group in unit.groups}

    def needed(call: tuple[Any, ...]) -> Mapping[str, Any]:
        return {"memory": memory[call[0].part]} if isinstance(call[0], PartInput) else {}

    stored = ray.put(manifest)  # once: its index of a large dataset would be copied for each call
    calls = ((given, stored, staged, config) for given in read_inputs(manifest, units))
    for node, outcome in run_in_parallel(_stage_on_node, calls, needed):
        if outcome.unreadable:
            unread[outcome.part] = node
        else:
            yield outcome
    in_order = {group for unit in units if unit.in_order for group in unit.groups}
    others = _other_nodes(unread)

    def elsewhere(call: tuple[Any, ...]) -> Mapping[str, Any]:
        return {**needed(call), **others[call[0].part]}

    again = ((PartInput(part, in_order=part in in_order), stored, staged, config, allowed > 0) for part in unread)
    unreadable = 0
    for _, outcome in run_in_parallel(_stage_on_node, again, elsewhere):
        unreadable += outcome.unreadable
        if unreadable > allowed:
            more = f"more than {allowed} inputs" if allowed else "an input"
            raise WorkError(
                f"{more} can't be read, such as {outcome.fault}; the dataset is incomplete; --max_unreadable N leaves "
                "up to N of them out"
            )
        yield outcome


def _stage_on_node(
    given: PartInput, manifest: Manifest, staged: StoragePath, config: Prepare, accept: bool = False
) -> tuple[str, StagedPart]:
    """Stage one part, and return the id of this node with the outcome (a Ray task)."""
    return ray.get_runtime_context().get_node_id(), stage_part(given, manifest, staged, config, accept)


def _other_nodes(tried: Mapping[int, str]) -> dict[int, dict[str, Any]]:
    """Return for each part the options of a task on another node than the one that tried it, the nodes in turn."""
    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]  # type: ignore[no-untyped-call]
    turn = cycle(nodes or [""])
    found: dict[int, dict[str, Any]] = {}
    for part, node in tried.items():
        other = next((each for each, _ in zip(turn, range(len(nodes)), strict=False) if each != node), None)
        found[part] = {"scheduling_strategy": NodeAffinitySchedulingStrategy(other, soft=True)} if other else {}
    return found
