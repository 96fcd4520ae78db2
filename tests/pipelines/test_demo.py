"""The whole way, as a newcomer takes it: the installed command, on phantoms, to a report."""

import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest


@pytest.mark.slow
def test_demo(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    done = subprocess.run(
        [sys.executable, "-m", "overlay", "demo", "--out", str(out)], capture_output=True, text=True, timeout=1800
    )
    assert done.returncode == 0, done.stderr
    metrics = json.loads((out / "run" / "evaluation" / "metrics.json").read_text())
    assert metrics["accuracy"] >= 0.85
    predictions = pq.read_table(out / "predictions" / "predictions")
    assert len(predictions) == 240
    assert set(predictions["status"].to_pylist()) == {"ok"}
    for line in ("model:", "curves:", "report:", "predictions:"):
        (place,) = [words.split(maxsplit=1)[1] for words in done.stdout.splitlines()[-8:] if words.startswith(line)]
        assert Path(place).exists()
