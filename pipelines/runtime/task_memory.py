"""Memory that tasks ask Ray for, by the size of the largest file that they decode.

Ray runs only as many tasks on a node as its memory holds: a few large images at one time would end the node.
"""

import sys
from collections.abc import Sequence

import ray

from overlay.config import Limits
from overlay.sources.read_plan import ReadUnit
from overlay.sources.read_units import ReadUnits

_LEAST = 640 * 2**20  # a worker of Ray Data that decodes small images takes 245 MiB, beside its decoder process
_BYTES_A_BYTE = 12  # a float TIFF of 49 megapixels (187 MiB) takes 2.1 GiB
_LARGE = 2**30


def task_bytes(largest: int, limits: Limits) -> int:
    """Return the bytes that decoding a file of ``largest`` bytes may take, with the task around it."""
    return min(_LEAST + _BYTES_A_BYTE * largest, max(_LEAST, limits.decode_bytes))


def node_memory() -> int:
    """Return the most bytes of memory that a task may ask for: those of the largest node, since more never starts."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    return int(max((node.get("memory", 0.0) for node in nodes if node.get("CPU")), default=0.0)) or sys.maxsize


def split_by_memory(units: Sequence[ReadUnit], limits: Limits) -> list[ReadUnits]:
    """Divide units into those of ordinary images and those of large ones, so that few tasks ask for much memory."""
    small, large = ReadUnits(), ReadUnits()
    for unit in units:
        (small if task_bytes(unit.largest, limits) <= _LARGE else large).append(unit)
    return [some for some in (small, large) if some]
