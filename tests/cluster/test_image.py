"""The image's build file: hadolint's rules, and what it copies."""

import re
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "cluster" / "Dockerfile"
HADOLINT = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")


@pytest.mark.skipif(HADOLINT is None, reason="NOT CHECKED: cluster/Dockerfile, since hadolint is not here")
def test_hadolint_finds_nothing() -> None:
    done = subprocess.run([str(HADOLINT), str(DOCKERFILE)], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")


def test_dependencies_are_installed_before_the_sources_are_copied() -> None:
    text = DOCKERFILE.read_text()
    first_source = text.index("COPY overlay")
    assert [found.start() < first_source for found in re.finditer("--requirements pyproject.toml", text)] == [True] * 2
    assert text.index("--no-deps .") > first_source


def test_what_is_copied_exists_and_is_not_ignored() -> None:
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    copied = {
        name for line in re.findall(r"^COPY (.+)$", DOCKERFILE.read_text(), re.MULTILINE) for name in line.split()[:-1]
    }
    assert copied == {"pyproject.toml", "README.md", "LICENSE", "overlay", "pipelines", "cluster"}
    assert all((ROOT / name).exists() for name in copied)
    assert rules[0] == "*"
    assert {rule.removeprefix("!") for rule in rules if rule.startswith("!")} == copied
    assert not any(fnmatch(name, rule) for rule in rules[1:] if not rule.startswith("!") for name in copied)


def test_a_compiler_is_there_for_torch_compile_and_the_user_is_a_number() -> None:
    text = DOCKERFILE.read_text()
    assert re.search(r"apt-get install .*\bg\+\+", text)
    assert re.findall(r"^USER (.+)$", text, re.MULTILINE) == ["1000"]
