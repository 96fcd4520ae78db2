"""Which room may import which: see CONTRIBUTING.md."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("overlay", "pipelines", "cluster")


def imports(file: Path) -> Iterator[str]:
    """Yield the dotted name of every module and member that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} has a relative import"
            yield from (f"{node.module}.{name.name}" for name in node.names)


def imports_of(room: str, but: str = "") -> set[tuple[str, str]]:
    """Pair each file of a room with the modules that it imports."""
    files = [file for file in (ROOT / room).rglob("*.py") if file.name != but]
    return {(file.name, name) for file in files for name in imports(file)}


def test_the_subject_knows_nothing_of_ray() -> None:
    assert [pair for pair in imports_of("overlay") if pair[1].split(".")[0] == "ray"] == []


def test_only_the_door_leads_from_the_subject_to_the_other_rooms() -> None:
    others = ("pipelines", "cluster", "scripts", "tests")
    assert [pair for pair in imports_of("overlay", but="cli.py") if pair[1].split(".")[0] in others] == []


def test_the_cluster_knows_only_the_errors_of_the_subject() -> None:
    ours = {(file, name) for file, name in imports_of("cluster") if name.split(".")[0] in ("overlay", "pipelines")}
    assert {name.rpartition(".")[0] for _, name in ours} == {"overlay.errors"}


@pytest.mark.parametrize("room", ROOMS)
def test_the_product_does_not_need_its_tests_or_scripts(room: str) -> None:
    assert [pair for pair in imports_of(room) if pair[1].split(".")[0] in ("tests", "scripts")] == []


def test_pipelines_do_not_call_the_door() -> None:
    assert [
        pair for pair in imports_of("pipelines") if pair[1].startswith(("overlay.cli.main", "overlay.cli.parser"))
    ] == []
