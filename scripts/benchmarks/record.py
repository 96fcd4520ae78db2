"""Benchmark records: one JSON line a run in docs/benchmarks/NAME.jsonl, with commit, machine, versions and command.

A benchmark ends with ``append_record("predict", current_record({"images_per_second": 27.5}))``. No record names the
host, the user or a path, so that the files can be published.
"""

import json
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
RECORDS = "docs/benchmarks"
_PACKAGES = ("torch", "ray", "pyarrow", "pillow")


@dataclass(frozen=True)
class BenchmarkMachine:
    """The hardware of a run."""

    cpu: str
    """model name"""
    cores: int
    """logical processors that this process may use"""
    memory_gib: float
    gpu: str | None
    """model name of the first CUDA device"""


@dataclass(frozen=True)
class BenchmarkRecord:
    """One run of a benchmark."""

    commit: str
    """short sha"""
    dirty: bool
    """whether tracked files differed from the commit, the records themselves aside"""
    date: str
    """UTC, ISO 8601, to the second"""
    machine: BenchmarkMachine
    versions: Mapping[str, str]
    command: str
    numbers: Mapping[str, float]
    """each name with its unit, such as images_per_second"""


def current_record(numbers: Mapping[str, float]) -> BenchmarkRecord:
    """Describe this process's run, which gave ``numbers``."""
    commit, dirty = git_state(ROOT)
    return BenchmarkRecord(
        commit=commit,
        dirty=dirty,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=_machine(),
        versions={"python": platform.python_version()} | {name: version(name) for name in _PACKAGES},
        command=command_text(sys.argv, ROOT),
        numbers=numbers,
    )


def append_record(name: str, record: BenchmarkRecord, root: Path = ROOT) -> Path:
    """Append a record to docs/benchmarks/NAME.jsonl below ``root`` and return the file.

    Raises:
        ValueError: a number is NaN or infinite, which JSON can't hold; nothing was written.
    """
    line = json.dumps(asdict(record), allow_nan=False)
    file = root / RECORDS / f"{name}.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", encoding="utf-8") as opened:
        opened.write(f"{line}\n")
    return file


def git_state(root: Path) -> tuple[str, bool]:
    """Return the short sha of a checkout, and whether tracked files outside of docs/benchmarks were changed."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=True).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", f":(exclude){RECORDS}")
    return git("rev-parse", "--short=7", "HEAD"), bool(changed)


def command_text(words: Sequence[str], root: Path) -> str:
    """Write ``sys.argv`` as a command: the script relative to ``root``, every other path as PATH."""
    script = Path(words[0]).absolute()
    first = str(script.relative_to(root)) if script.is_relative_to(root) else script.name
    rest = [re.sub(r"^(--[\w.-]+=)?.*[/~].*$", r"\1PATH", word, flags=re.DOTALL) for word in words[1:]]
    return shlex.join(["python", first, *rest])


def _machine() -> BenchmarkMachine:
    import torch

    info = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*:\s*(.+)$", info.read_text(), re.MULTILINE) if info.exists() else []
    return BenchmarkMachine(
        cpu=names[0] if names else platform.processor(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory_gib=round(psutil.virtual_memory().total / 2**30, 1),
        gpu=torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
    )
