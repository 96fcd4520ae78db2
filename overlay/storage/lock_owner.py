"""Owner of a lock: which process of which machine holds it, and whether that process still runs here."""

import json
import os
import socket
import subprocess
from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from uuid import uuid4


@dataclass(frozen=True)
class LockOwner:
    """Process that holds a lock, as the lock's file or object records it."""

    command: str
    """verb of the command line"""
    host: str
    machine: str | None
    """name space of process ids: containers have their own, and a machine has another after each boot; None where the
    system tells none"""
    pid: int
    started: str | None
    """start time of the process, as the system counts it: process ids are used again"""
    since: str
    """time at which the lock was asked for, UTC"""
    job: str | None = None
    """id of the job at Ray or Slurm that the process is, if any"""
    holds: bool = True
    """whether it has the lock, and does not only ask for it, as in a bucket"""
    token: str = field(default_factory=lambda: uuid4().hex)
    """identity of this taking of the lock"""

    @classmethod
    def current(cls, command: str) -> "LockOwner":
        """Describe this process."""
        return cls(
            command=command,
            host=socket.gethostname(),
            machine=_machine(),
            pid=os.getpid(),
            started=_start_time(os.getpid()),
            since=datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
            job=_job(),
        )

    @classmethod
    def parse(cls, content: bytes) -> "LockOwner | None":
        """Parse `to_bytes`; None for anything else, such as a file whose writing has only begun."""
        try:
            owner = cls(**json.loads(content))
        except (ValueError, TypeError):
            return None
        return owner if isinstance(owner.token, str) and isinstance(owner.pid, int) else None

    def to_bytes(self) -> bytes:
        """Serialise as JSON."""
        return json.dumps(asdict(self), indent=2).encode()

    @property
    def runs(self) -> bool | None:
        """Whether the process still runs; None where that can't be asked, as of one of another machine."""
        if self.machine is None or self.machine != _machine():
            return None
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except OSError:  # of another user
            pass
        started = _start_time(self.pid)
        return None if started is None or self.started is None else started == self.started

    def __str__(self) -> str:
        job = f", job {self.job}" if self.job else ""
        return f"overlay {self.command} on {self.host} (process {self.pid}{job}) since {self.since}"


@dataclass(frozen=True)
class LockRival:
    """Lock of another process that stands in the way."""

    owner: LockOwner | None
    """None where its record can't be read"""
    token: str
    """identity of that taking of the lock"""
    sign: str
    """changes with each heartbeat"""
    silent: float = 0.0
    """seconds since the last heartbeat, by the clock of the storage; 0 where that is not known"""

    @property
    def holds(self) -> bool:
        """Whether it has the lock, and does not only ask for it."""
        return self.owner is None or self.owner.holds

    @property
    def lives_here(self) -> bool:
        """Whether its process is one of this machine, and still runs."""
        return self.owner is not None and self.owner.runs is True

    def is_dead(self, silent: Collection[str]) -> bool:
        """Whether its process has ended, or its token is among those that were silent for too long."""
        return self.token in silent or (self.owner is not None and self.owner.runs is False)

    def __str__(self) -> str:
        return "another process" if self.owner is None else str(self.owner)


@lru_cache
def _machine() -> str | None:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"  # noqa: PTH115 - not a path of a file system
    except OSError:
        pass
    try:  # macOS
        return subprocess.run(
            ["/usr/sbin/sysctl", "-n", "kern.bootsessionuuid"], capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _start_time(pid: int) -> str | None:
    """Return when a process started, as a text that stays the same while it runs; None where that can't be read."""
    if Path("/proc/self/stat").exists():
        try:
            status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None
        fields = status.rpartition(")")[2].split()  # from the third on (proc_pid_stat(5)): state, ..., starttime
        return "ended" if fields[0] in "ZX" else fields[19]  # a zombie, whose parent has not asked for its status
    shown = subprocess.run(["/bin/ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return shown.stdout.strip() or None


def _job() -> str | None:
    try:
        ray_job = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"))["metadata"]["job_submission_id"]
        return str(ray_job)
    except (ValueError, KeyError, TypeError):
        return os.environ.get("SLURM_JOB_ID")
