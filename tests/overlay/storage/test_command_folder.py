import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from overlay.storage.command_folder import command_folder


def test_folders_of_processes_that_have_ended_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    killed = subprocess.Popen([sys.executable, "-c", ""])
    killed.wait()
    kept = ["overlay-job-other.host-1-abc", f"overlay-job-{platform.node()}-1-abc", "overlay-job", "mine"]
    for name in [f"overlay-job-{platform.node()}-{killed.pid}-abc", *kept]:
        (tmp_path / name / "part").mkdir(parents=True)
    with command_folder() as folder:
        assert folder.parent == tmp_path
        assert sorted(entry.name for entry in tmp_path.iterdir()) == sorted([folder.name, *kept])
    assert sorted(entry.name for entry in tmp_path.iterdir()) == sorted(kept)
