"""A short fault campaign; the long one is scripts/fault_injection/predict.py."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "fault_injection" / "predict.py"


@pytest.mark.fault
@pytest.mark.slow
@pytest.mark.parametrize("where", [["--pause", "0.2", "2"], ["--here", "--pause", "0", "0.3"]])
def test_whatever_is_killed_the_rows_are_the_same(where: list[str]) -> None:
    options = ["--images", "600", "--kills", "5", "--part_rows", "50", *where]
    words = [sys.executable, str(SCRIPT), *options]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=1200)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "5 kills" in done.stdout
    assert "rows 600, distinct 600, manifest 600; texts equal: True" in done.stdout
