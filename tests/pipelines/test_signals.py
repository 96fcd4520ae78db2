"""A short campaign of signals, and of full disks; the long ones are in scripts/fault_injection/."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts" / "fault_injection"


@pytest.mark.fault
@pytest.mark.slow
@pytest.mark.parametrize("verb", ["prepare", "train", "predict", "export"])
def test_an_interrupted_verb_says_so_and_the_same_command_goes_on(verb: str) -> None:
    options = ["--verbs", verb, "--times", "2", "--others", "2", "--most", "120"]
    words = [sys.executable, str(SCRIPTS / "signals.py"), *options]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "0 wrong"


@pytest.mark.fault
@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="a tmpfs is mounted")
@pytest.mark.parametrize("how", [["--megabytes", "30"], ["--fill"]])
def test_a_full_disk_ends_a_verb_with_a_line_and_leaves_no_part(how: list[str]) -> None:
    words = [sys.executable, str(SCRIPTS / "full_disk.py"), "--verbs", "train", "export", *how]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "0 wrong"
