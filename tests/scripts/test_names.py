import sys

from scripts.benchmarks.record import ROOT


def test_no_script_has_the_name_of_a_standard_module() -> None:
    """A script's folder comes first in its path, and in that of the decoder processes which it starts."""
    scripts = [path.stem for path in (ROOT / "scripts").rglob("*.py") if path.stem != "__init__"]
    assert "feed" in scripts
    assert [name for name in scripts if name in sys.stdlib_module_names] == []
