"""The table of docs/storage.md says what the types of the options say, and names tests that exist."""

import re
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from overlay.cli.verbs import VERBS
from overlay.config.options import option_types

ROOT = Path(__file__).parents[1]


def rows() -> list[list[str]]:
    """Cells of the table's rows: verb, option, disk, bucket, tests."""
    lines = (ROOT / "docs" / "storage.md").read_text(encoding="utf-8").splitlines()
    return [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")][2:]


def markers(config: type, prefix: str = "") -> dict[str, str]:
    """Return option -> its type with the marker, of the options that name a file, folder or address."""
    found: dict[str, str] = {}
    for name, kind in get_type_hints(config, include_extras=True).items():
        if isinstance(kind, type) and hasattr(kind, "__dataclass_fields__"):
            found |= markers(kind, f"{prefix}{name}.")
        elif re.search(r"'(local path|path|path,path|weights|file:column)'", str(kind)):
            found[prefix + name] = str(kind)
    return found


def test_every_option_that_names_a_place_is_in_the_table() -> None:
    told = {(verb, option): bucket for verb, option, _, bucket, _ in rows()}
    typed: dict[tuple[str, str], Any] = {
        (verb, option): "no" if "'local path'" in kind else "yes"
        for verb, config in VERBS.items()
        for option, kind in markers(config).items()
    }
    assert told == typed
    assert all(option in option_types(VERBS[verb]) for verb, option in told)


@pytest.mark.parametrize("name", sorted({name for row in rows() for name in re.findall(r"test_\w+", row[4])}))
def test_the_tests_of_the_table_exist(name: str) -> None:
    sources = (file.read_text(encoding="utf-8") for file in (ROOT / "tests").rglob("test_*.py"))
    assert any(f"def {name}(" in source for source in sources)
