"""Layered graph of rooms and imports: ``uv run python scripts/architecture_figure.py`` writes docs/layers.svg.

Rooms are boxes, and a room stands one floor above the highest room that it imports. Arrows go from a room to those that
it imports, by its own import statements; an arrow that follows from others is left out (transitive reduction). Order
and places follow Sugiyama, Tagawa, Toda 1981: long arrows pass each floor at a point of their own, floors are ordered
by the barycentre of their neighbours, and the places come nearest to these by isotonic regression.
"""

import ast
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

_ROOT = Path(__file__).parents[1]
ROOM_PURPOSES = {
    "overlay.errors": ("exception types", "and their exit status"),
    "overlay.version": ("version, and a", "fingerprint of the code"),
    "overlay.config": ("every option,", "one module for each verb"),
    "overlay.storage": ("files on a disk or in a bucket,", "written atomically"),
    "overlay.archives": ("untrusted zip and tar,", "read as streams"),
    "overlay.images": ("bytes to pixels to overlay;", "augmentation, hashes"),
    "overlay.duplicates": ("near-duplicates by", "perceptual hash"),
    "overlay.dataset": ("format of the", "prepared dataset"),
    "overlay.sources": ("what a user names, to images,", "masks, labels: the manifest"),
    "overlay.models": ("networks, model files,", "pretrained weights"),
    "overlay.engines": ("running a model: torch,", "torch.compile, OpenVINO"),
    "overlay.comparison": ("candidates, differences,", "tests, page"),
    "overlay.evaluation": ("metrics, intervals, tests,", "figures, report"),
    "overlay.training": ("one worker's mathematics,", "checkpoints, run folder"),
    "overlay.preparation": ("splits, staging,", "contact sheets"),
    "overlay.prediction": ("exactly-once output,", "Predictor for Python"),
    "overlay.tracking": ("Weights & Biases: the record", "of a run or a prediction"),
    "cluster": ("Ray session, job", "submission, KubeRay files"),
    "pipelines.runtime": ("tasks, placement and", "progress of all jobs"),
    "pipelines.inference": ("backends of a prediction,", "pool of model actors"),
    "pipelines.training": ("Ray Train's workers and", "their stream of batches"),
    "pipelines": ("one job a file: prepare, train,", "evaluate, compare, predict"),
    "overlay.cli": ("parser and entry point;", "imports a job by its name"),
    "scripts": ("benchmarks, fault injection,", "figures of the documents"),
}
"""room, by the names of tests/test_architecture.py -> its purpose, in two lines"""

_WIDTH, _MARGIN = 1240, 14
_BOX_WIDTH, _BOX_HEIGHT, _FLOOR_HEIGHT = 208, 58, 112
_GAP, _BEND_WIDTH = 26, 20
_SWEEPS = 24

_STYLE = """
text { font: 12px system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; fill: #44505c; text-anchor: middle }
.name { font-weight: 600; font-size: 14px; fill: #14202b }
rect { stroke-width: 1.3; rx: 7px }
.overlay { fill: #e8f1fb; stroke: #4a86c5 }
.pipelines { fill: #fdf0df; stroke: #c98a2b }
.cluster { fill: #e6f5ea; stroke: #46975c }
.scripts { fill: #f1edf7; stroke: #8466b0 }
path { fill: none; stroke: #7d8894; stroke-width: 1.2 }
marker path { fill: #7d8894; stroke: none }
.by-name { stroke-dasharray: 5 4 }
@media (prefers-color-scheme: dark) {
  text { fill: #b4bec9 }
  .name { fill: #f0f4f8 }
  .overlay { fill: #16283b; stroke: #5b97d6 }
  .pipelines { fill: #362813; stroke: #d9a04a }
  .cluster { fill: #15301d; stroke: #5cb176 }
  .scripts { fill: #281f38; stroke: #a488d2 }
  path { stroke: #8a96a3 }
  marker path { fill: #8a96a3 }
}
"""

Graph = dict[str, set[str]]
"""room -> rooms that it imports"""
_Node = tuple[str, ...]
"""a room, (room,), or the point where an arrow passes a floor, (from, to, floor)"""


def room_imports(root: Path) -> tuple[Graph, set[tuple[str, str]]]:
    """Return the rooms' imports of each other, and those of them that are by a computed name only.

    Such an import is a call of `importlib.import_module` with an f-string, which begins with the room's name.
    """
    statements: Graph = {room: set() for room in ROOM_PURPOSES}
    by_name: set[tuple[str, str]] = set()
    for folder in ("overlay", "pipelines", "cluster", "scripts"):
        for file in sorted((root / folder).rglob("*.py")):
            own = _room_of(".".join(file.relative_to(root).with_suffix("").parts))
            for name, computed in _imported_names(ast.parse(file.read_text())):
                other = _room_of(name)
                if own and other and own != other:
                    by_name |= {(own, other)} if computed else set()
                    statements[own] |= set() if computed else {other}
    by_name = {(own, other) for own, other in by_name if other not in statements[own]}
    return {own: others | {to for start, to in by_name if start == own} for own, others in statements.items()}, by_name


def room_floors(graph: Mapping[str, set[str]]) -> dict[str, int]:
    """Return the floor of each room, from 0: the longest chain of imports below it.

    Raises:
        ValueError: rooms import each other in a circle.
    """
    floors: dict[str, int] = {}
    while len(floors) < len(graph):
        ready = [room for room, others in graph.items() if room not in floors and others <= floors.keys()]
        if not ready:
            raise ValueError(f"imports in a circle among {sorted(graph.keys() - floors.keys())}")
        floors |= {room: max((floors[other] + 1 for other in graph[room]), default=0) for room in ready}
    return floors


def reduce_graph(graph: Graph) -> Graph:
    """Return the transitive reduction of a graph without circles: no arrow where a longer way leads to the same."""
    floors = room_floors(graph)
    reached: Graph = {}
    for room in sorted(graph, key=floors.__getitem__):
        reached[room] = graph[room].union(*(reached[other] for other in graph[room]))
    return {room: {o for o in others if not any(o in reached[via] for via in others)} for room, others in graph.items()}


def architecture_svg(root: Path) -> str:
    """Return the figure of the code below a folder; the same imports give the same text."""
    graph, by_name = room_imports(root)
    floors, arrows = room_floors(graph), reduce_graph(graph)
    layers, links = _layered(arrows, floors)
    x = _places(_ordered(layers, links), links)
    height = len(layers) * _FLOOR_HEIGHT - (_FLOOR_HEIGHT - _BOX_HEIGHT) + 2 * _MARGIN
    ground = height - _MARGIN - _BOX_HEIGHT
    top = {node: ground - floor * _FLOOR_HEIGHT for floor, layer in enumerate(layers) for node in layer}
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" '
        'role="img">',
        "<title>Rooms of the code, and which imports which</title>",
        f"<style>{_STYLE}</style>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7.5" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 8 4 0 8z"/></marker></defs>',
    ]
    for room, other in sorted((room, other) for room, others in arrows.items() for other in others):
        kind = ' class="by-name"' if (room, other) in by_name else ""
        way = [(room,), *((room, other, str(f)) for f in range(floors[room] - 1, floors[other], -1)), (other,)]
        lines.append(f'<path{kind} marker-end="url(#tip)" d="{_curve(way, x, top, links)}"/>')
    for room, purpose in ROOM_PURPOSES.items():
        lines += _box(room, purpose, x[(room,)], top[(room,)])
    return "\n".join([*lines, "</svg>", ""])


def main() -> None:
    """Write the figure."""
    (_ROOT / "docs" / "layers.svg").write_text(architecture_svg(_ROOT))


def _imported_names(tree: ast.Module) -> Iterator[tuple[str, bool]]:
    """Yield each imported module or member by its dotted name, and whether the name is computed."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((name.name, False) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((f"{node.module}.{name.name}", False) for name in node.names)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "import_module":
            parts = node.args[0].values if isinstance(node.args[0], ast.JoinedStr) else []
            if parts and isinstance(parts[0], ast.Constant):
                yield str(parts[0].value), True


def _room_of(name: str) -> str | None:
    """Return the room of a module or member; None for others, and for `overlay` itself, which stands above all."""
    return max((room for room in ROOM_PURPOSES if f"{name}.".startswith(f"{room}.")), key=len, default=None)


def _layered(arrows: Graph, floors: Mapping[str, int]) -> tuple[list[list[_Node]], list[tuple[_Node, _Node]]]:
    """Return the nodes of each floor, and the links between neighbouring floors, from above to below."""
    layers: list[list[_Node]] = [[] for _ in range(max(floors.values()) + 1)]
    links: list[tuple[_Node, _Node]] = []
    for room in ROOM_PURPOSES:
        layers[floors[room]].append((room,))
    for room, others in arrows.items():
        for other in sorted(others):
            way: list[_Node] = [(room,)]
            for floor in range(floors[room] - 1, floors[other], -1):
                way.append((room, other, str(floor)))
                layers[floor].append(way[-1])
            links += pairwise([*way, (other,)])
    return layers, links


def _ordered(layers: list[list[_Node]], links: list[tuple[_Node, _Node]]) -> list[list[_Node]]:
    """Return the order with the fewest crossings of some sweeps by barycentres, and then of swapped neighbours."""
    best, fewest = layers, _crossings(layers, links)
    for sweep in range(_SWEEPS):
        current = [list(layer) for layer in layers]
        up = sweep % 2 == 0
        for floor in range(1, len(layers)) if up else range(len(layers) - 2, -1, -1):
            fixed = {node: place for place, node in enumerate(current[floor - 1 if up else floor + 1])}
            centre = {}
            for place, node in enumerate(current[floor]):
                near = [fixed[b if up else a] for a, b in links if (a if up else b) == node]
                centre[node] = sum(near) / len(near) if near else float(place)
            current[floor] = sorted(current[floor], key=centre.__getitem__)
        layers = current
        if (crossings := _crossings(layers, links)) < fewest:
            best, fewest = layers, crossings
    return _swapped(best, links)


def _swapped(layers: list[list[_Node]], links: list[tuple[_Node, _Node]]) -> list[list[_Node]]:
    """Swap neighbours on a floor as long as that saves crossings."""
    for floor, place in [(floor, place) for floor, layer in enumerate(layers) for place in range(len(layer) - 1)]:
        other = [list(layer) for layer in layers]
        other[floor][place : place + 2] = other[floor][place : place + 2][::-1]
        if _crossings(other, links) < _crossings(layers, links):
            return _swapped(other, links)
    return layers


def _crossings(layers: list[list[_Node]], links: list[tuple[_Node, _Node]]) -> int:
    place = {node: index for layer in layers for index, node in enumerate(layer)}
    number = 0
    for layer in layers:
        ends = [(place[a], place[b]) for a, b in links if a in layer]
        number += sum((a - c) * (b - d) < 0 for i, (a, b) in enumerate(ends) for c, d in ends[i + 1 :])
    return number


def _places(layers: list[list[_Node]], links: list[tuple[_Node, _Node]]) -> dict[_Node, int]:
    """Return the centre of each node in pixels: near its neighbours', with room for all on its floor."""
    x: dict[_Node, float] = {}
    for layer in layers:
        x |= dict(zip(layer, _spread(layer, np.full(len(layer), _WIDTH / 2)), strict=True))
    for sweep in range(_SWEEPS):
        for layer in layers if sweep % 2 else layers[::-1]:
            near = [[x[b if a == node else a] for a, b in links if node in (a, b)] or [x[node]] for node in layer]
            x |= dict(zip(layer, _spread(layer, np.array([np.mean(each) for each in near])), strict=True))
    return {node: round(place) for node, place in x.items()}


def _spread(layer: list[_Node], wanted: NDArray[np.float64]) -> list[float]:
    """Return the places nearest to the wanted ones, by least squares, at which the nodes of a floor don't overlap."""
    widths = np.array([_BOX_WIDTH if len(node) == 1 else _BEND_WIDTH for node in layer], float)
    offsets = np.concatenate([[0.0], np.cumsum((widths[:-1] + widths[1:]) / 2 + _GAP)])
    least, most = _MARGIN + widths[0] / 2, _WIDTH - _MARGIN - widths[-1] / 2 - offsets[-1]
    if most < least:
        raise ValueError(f"the floor of {layer[0][0]} is too wide for {_WIDTH} pixels")
    places: list[float] = (np.clip(isotonic_regression(wanted - offsets).x, least, most) + offsets).tolist()
    return places


def _curve(way: list[_Node], x: Mapping[_Node, int], top: Mapping[_Node, int], links: list[tuple[_Node, _Node]]) -> str:
    """Return the path of an arrow, from the lower edge of a box to the upper edge of another."""
    start, *bends, end = way
    points = [(_port(start, way[1], x, [b for a, b in links if a == start]), top[start] + _BOX_HEIGHT)]
    for bend in bends:
        points += [(x[bend], top[bend]), (x[bend], top[bend] + _BOX_HEIGHT)]
    points.append((_port(end, way[-2], x, [a for a, b in links if b == end]), top[end]))
    text = f"M{points[0][0]} {points[0][1]}"
    for index, ((x0, y0), (x1, y1)) in enumerate(pairwise(points)):
        middle = (y0 + y1) // 2
        text += f" V{y1}" if index % 2 else f" C{x0} {middle} {x1} {middle} {x1} {y1}"
    return text


def _port(room: _Node, neighbour: _Node, x: Mapping[_Node, int], neighbours: list[_Node]) -> int:
    """Return where at its box the arrow of a neighbour begins or ends; those from the left stand on the left."""
    order = sorted(neighbours, key=lambda node: (x[node], node))
    step = min(22, (_BOX_WIDTH - 30) // len(order))
    return round(x[room] + (order.index(neighbour) - (len(order) - 1) / 2) * step)


def _box(room: str, purpose: tuple[str, str], x: int, y: int) -> list[str]:
    first, second = map(escape, purpose)
    return [
        f'<rect class="{room.split(".")[0]}" x="{x - _BOX_WIDTH // 2}" y="{y}" width="{_BOX_WIDTH}" '
        f'height="{_BOX_HEIGHT}" rx="7"/>',
        f'<text class="name" x="{x}" y="{y + 19}">{room.replace(".", "/")}</text>',
        f'<text x="{x}" y="{y + 36}">{first}</text>',
        f'<text x="{x}" y="{y + 50}">{second}</text>',
    ]


if __name__ == "__main__":
    main()
