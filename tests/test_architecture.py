"""The order of rooms, and one name for one thing: see docs/architecture.md."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = (
    "overlay.errors",
    "overlay.version",
    "overlay.config",
    "overlay.storage",
    "overlay.archives",
    "overlay.images",
    "overlay.duplicates",
    "overlay.dataset",
    "overlay.sources",
    "overlay.models",
    "overlay.engines",
    "overlay.training",
    "overlay.evaluation",
    "overlay.comparison",
    "overlay.preparation",
    "overlay.prediction",
    "overlay.tracking",
    "cluster",
    "pipelines.runtime",
    "pipelines.inference",
    "pipelines.training",
    "pipelines",
    "overlay.cli",
    "scripts",
)
"""from the ground up: a room imports only what stands before it"""
PRODUCT = ("overlay", "pipelines", "cluster")
FILES = [file for folder in (*PRODUCT, "scripts") for file in sorted((ROOT / folder).rglob("*.py"))]


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(file: Path) -> Iterator[str]:
    """Yield the dotted name of every module and member that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} has a relative import"
            yield from (f"{node.module}.{name.name}" for name in node.names)


def room_of(name: str) -> str | None:
    """Return the room of a module or of a member of one; None for what is no room of ours."""
    found = [room for room in ROOMS if name == room or name.startswith(f"{room}.")]
    return max(found, key=len, default=None)


def public_names(file: Path) -> Iterator[str]:
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names = [node.name]
        elif isinstance(node, ast.Assign):
            names = [target.id for target in node.targets if isinstance(target, ast.Name)]
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names = [node.target.id]
        else:
            continue
        yield from (name for name in names if not name.startswith("_"))


def test_a_room_imports_only_what_stands_before_it() -> None:
    wrong = []
    for file in FILES:
        own = room_of(module_name(file))
        if own is None:  # overlay/__init__.py and overlay/__main__.py, which stand above all
            assert file.parent == ROOT / "overlay", file
            continue
        for name in imports(file):
            other = room_of(name)
            if other is not None and ROOMS.index(other) > ROOMS.index(own):
                wrong.append(f"{module_name(file)} imports {name}")
    assert wrong == []


def test_the_subject_knows_nothing_of_ray() -> None:
    files = [file for file in FILES if file.is_relative_to(ROOT / "overlay")]
    assert [file for file in files if any(name.split(".")[0] == "ray" for name in imports(file))] == []


def test_the_command_line_imports_jobs_inside_functions() -> None:
    """`overlay --help` answers without Ray or torch."""
    top = [
        name
        for file in FILES
        if room_of(module_name(file)) == "overlay.cli"
        for node in ast.parse(file.read_text()).body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in imports_of(node)
    ]
    assert [name for name in top if name.split(".")[0] in ("pipelines", "cluster", "ray", "torch")] == []


def imports_of(node: ast.Import | ast.ImportFrom) -> list[str]:
    module = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
    return [f"{module}{name.name}" for name in node.names]


def test_the_cluster_knows_only_the_errors_of_the_subject() -> None:
    files = [file for file in FILES if file.is_relative_to(ROOT / "cluster")]
    ours = {name for file in files for name in imports(file) if name.split(".")[0] in ("overlay", "pipelines")}
    assert {name.rpartition(".")[0] for name in ours} == {"overlay.errors"}


@pytest.mark.parametrize("package", PRODUCT)
def test_the_product_does_not_need_its_tests_or_scripts(package: str) -> None:
    files = [file for file in FILES if file.is_relative_to(ROOT / package)]
    assert [file for file in files if {name.split(".")[0] for name in imports(file)} & {"tests", "scripts"}] == []


def test_packages_load_nothing_by_themselves() -> None:
    """A re-export would load torch in a task that only reads images; `pipelines` sets what Ray reads when imported."""
    filled = [file for file in FILES if file.name == "__init__.py" and list(imports(file))]
    assert [module_name(file) for file in filled] == ["overlay", "overlay.config", "pipelines"]


def test_a_public_name_stands_for_one_thing() -> None:
    places = defaultdict(list)
    for file in FILES:
        for name in set(public_names(file)):  # an overloaded function is defined several times
            job = name == "run" and file.parent == ROOT / "pipelines"
            script = name == "main" and file.is_relative_to(ROOT / "scripts")
            if not job and not script:
                places[name].append(module_name(file))
    assert {name: files for name, files in places.items() if len(files) > 1} == {}
