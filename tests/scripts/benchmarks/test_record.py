import json
import math
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest

from scripts.benchmarks.record import (
    ROOT,
    BenchmarkMachine,
    BenchmarkRecord,
    append_record,
    command_text,
    current_record,
    git_state,
)

RECORD = BenchmarkRecord(
    commit="911c253",
    dirty=False,
    date="2026-11-26T01:02:03+00:00",
    machine=BenchmarkMachine(cpu="EPYC 9B14", cores=2, memory_gib=23.5, gpu=None),
    versions={"python": "3.11.7", "ray": "2.60.0"},
    command="python scripts/benchmarks/predict.py --images 200",
    numbers={"images_per_second": 27.5},
)
LINE = (
    '{"commit": "911c253", "dirty": false, "date": "2026-11-26T01:02:03+00:00", '
    '"machine": {"cpu": "EPYC 9B14", "cores": 2, "memory_gib": 23.5, "gpu": null}, '
    '"versions": {"python": "3.11.7", "ray": "2.60.0"}, '
    '"command": "python scripts/benchmarks/predict.py --images 200", "numbers": {"images_per_second": 27.5}}\n'
)


def test_each_run_is_one_line(tmp_path: Path) -> None:
    file = append_record("predict", RECORD, tmp_path)
    assert file == tmp_path / "docs" / "benchmarks" / "predict.jsonl"
    assert file.read_text() == LINE
    append_record("predict", replace(RECORD, numbers={"seconds": 3}), tmp_path)
    assert [json.loads(line)["numbers"] for line in file.read_text().splitlines()] == [
        {"images_per_second": 27.5},
        {"seconds": 3},
    ]


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_a_number_that_json_lacks_is_refused_and_nothing_written(number: float, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        append_record("predict", replace(RECORD, numbers={"seconds": number}), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_command_names_no_path_of_the_machine() -> None:
    words = ["/home/jane/overlay/scripts/benchmarks/train.py", "--size", "64", "--data=/home/jane/busi", "~/x", "a/b"]
    assert (
        command_text(words, Path("/home/jane/overlay"))
        == "python scripts/benchmarks/train.py --size 64 --data=PATH PATH PATH"
    )
    assert command_text(["/opt/bin/pytest", "-k", "a b"], Path("/home/jane/overlay")) == "python pytest -k 'a b'"


def test_the_commit_is_dirty_by_changed_files_but_not_by_records(tmp_path: Path) -> None:
    def git(*words: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        done = subprocess.run(["git", *identity, *words], cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    code, records = tmp_path / "code.py", tmp_path / "docs" / "benchmarks" / "predict.jsonl"
    records.parent.mkdir(parents=True)
    for file in (code, records):
        file.write_text("1\n")
    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "--message", "first")
    sha = git("rev-parse", "HEAD")
    records.write_text("2\n")
    (tmp_path / "notes.txt").write_text("untracked")
    commit, dirty = git_state(tmp_path)
    assert sha.startswith(commit)
    assert (len(commit), dirty) == (7, False)
    code.write_text("2\n")
    assert git_state(tmp_path) == (commit, True)


def test_the_current_run_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [str(ROOT / "scripts" / "benchmarks" / "predict.py")])
    monkeypatch.setattr("scripts.benchmarks.record.git_state", lambda _: ("911c253", True))
    record = current_record({"seconds": 1.5})
    assert (record.commit, record.dirty, record.numbers) == ("911c253", True, {"seconds": 1.5})
    assert record.command == "python scripts/benchmarks/predict.py"
    assert record.date.endswith("+00:00")
    assert record.versions["python"] == sys.version.split()[0]
    assert {name: record.versions[name] for name in ("torch", "ray", "pyarrow", "pillow")} == {
        name: version(name) for name in ("torch", "ray", "pyarrow", "pillow")
    }
    assert record.machine.cpu != ""
    assert record.machine.cores >= 1
    assert record.machine.memory_gib > 0
