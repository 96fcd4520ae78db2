import re
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree

import pytest

from scripts.architecture_figure import ROOM_PURPOSES, architecture_svg, reduce_graph, room_floors, room_imports
from tests.test_architecture import ROOMS

ROOT = Path(__file__).parents[2]
SVG = "{http://www.w3.org/2000/svg}"


def write_module(root: Path, name: str, text: str) -> None:
    file = root / f"{name}.py"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_the_committed_figure_is_that_of_the_code() -> None:
    """Where this fails: uv run python scripts/architecture_figure.py, and look at the figure."""
    assert (ROOT / "docs" / "layers.svg").read_text() == architecture_svg(ROOT)


def test_the_figure_has_the_rooms_of_the_architecture() -> None:
    assert set(ROOM_PURPOSES) == set(ROOMS)


def test_imports_are_found_wherever_they_stand(tmp_path: Path) -> None:
    write_module(tmp_path, "overlay/cli/main", "import importlib\nimportlib.import_module(f'pipelines.{1}')\n")
    write_module(tmp_path, "overlay/config/train", "from overlay.errors import RequestError\nimport numpy\n")
    write_module(tmp_path, "pipelines/train", "from pipelines.training import worker\nimport cluster.session\n")
    write_module(tmp_path, "pipelines/training/worker", "def late():\n    from overlay import tracking\n")
    graph, by_name = room_imports(tmp_path)
    assert {room: others for room, others in graph.items() if others} == {
        "overlay.cli": {"pipelines"},
        "overlay.config": {"overlay.errors"},
        "pipelines": {"pipelines.training", "cluster"},
        "pipelines.training": {"overlay.tracking"},
    }
    assert by_name == {("overlay.cli", "pipelines")}


def test_a_room_stands_above_all_that_it_imports() -> None:
    assert room_floors({"a": {"b", "d"}, "b": {"c"}, "c": {"d"}, "d": set()}) == {"a": 3, "b": 2, "c": 1, "d": 0}


def test_rooms_in_a_circle_have_no_floors() -> None:
    with pytest.raises(ValueError, match=r"circle among \['a', 'b'\]"):
        room_floors({"a": {"b"}, "b": {"a", "c"}, "c": set()})


def test_arrows_that_follow_from_others_are_left_out() -> None:
    graph = {"a": {"b", "c", "d"}, "b": {"d"}, "c": {"d"}, "d": {"e"}, "e": set()}
    assert reduce_graph(graph) == {"a": {"b", "c"}, "b": {"d"}, "c": {"d"}, "d": {"e"}, "e": set()}


def test_boxes_lie_apart_and_within_the_figure() -> None:
    figure = ElementTree.fromstring(architecture_svg(ROOT))
    width, height = (int(figure.attrib[name]) for name in ("width", "height"))
    boxes = [[int(box.attrib[name]) for name in ("x", "y", "width", "height")] for box in figure.iter(f"{SVG}rect")]
    assert len(boxes) == len(ROOM_PURPOSES)
    for x, y, w, h in boxes:
        assert 0 <= x <= width - w
        assert 0 <= y <= height - h
    for (x, y, w, h), (x2, y2, w2, h2) in combinations(boxes, 2):
        assert x + w <= x2 or x2 + w2 <= x or y + h <= y2 or y2 + h2 <= y


def test_arrows_point_down() -> None:
    figure = ElementTree.fromstring(architecture_svg(ROOT))
    arrows = [path.attrib["d"] for path in figure.findall(f"{SVG}path")]
    ends = [re.findall(r"-?\d+", arrow) for arrow in arrows]
    assert len(arrows) == sum(map(len, reduce_graph(room_imports(ROOT)[0]).values()))
    assert all(int(numbers[1]) < int(numbers[-1]) for numbers in ends)
