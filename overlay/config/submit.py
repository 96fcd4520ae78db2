"""Options of `overlay submit`."""

import re
from dataclasses import dataclass, field
from typing import Literal

from overlay.config.common import check

JOB_ACTIONS: tuple[Literal["attach", "status", "logs", "stop"], ...] = ("attach", "status", "logs", "stop")


@dataclass(frozen=True)
class Driver:
    """Resources reserved for the process that runs the verb; its tasks and workers have their own."""

    cpus: float = 0.0
    """CPUs; with none of these options the verb runs on the head"""
    gpus: float = 0.0
    """GPUs"""
    memory: float = 0.0
    """memory in GiB"""

    def __post_init__(self) -> None:
        for name in ("cpus", "gpus", "memory"):
            check(getattr(self, name) >= 0, f"driver.{name} is {getattr(self, name)}; it must be at least 0")


@dataclass(frozen=True)
class Submit:
    """Submit a verb as a job to a Ray cluster and follow its log; Ctrl-C leaves the job running.

    Paths are those of the cluster, so they must be absolute, in a folder that its nodes share, or in a bucket. The
    token of a cluster with authentication comes from RAY_AUTH_MODE=token and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH.
    """

    address: str
    """address of the cluster's job server, for example http://head:8265"""
    job: list[str] = field(default_factory=list)
    """verb and arguments, after --; paths are those of the cluster, so they must be absolute and shared"""
    name: str | None = None
    """name of the job, by which it is attached to and stopped; where a job of this name runs the same command, it is
    attached to"""
    detach: bool = False
    """send the job, print its name, and return"""
    attach: str | None = None
    """follow the log of this job to its end, and return its exit status"""
    status: str | None = None
    """print the status of this job"""
    logs: str | None = None
    """print the log of this job up to now"""
    stop: str | None = None
    """stop this job, and wait until it has saved and ended"""
    driver: Driver = field(default_factory=Driver)

    def __post_init__(self) -> None:
        given = [name for name in JOB_ACTIONS if getattr(self, name) is not None]
        check(len(given) <= 1, f"{' and '.join(given)} are given; do one of them at a time")
        if given:
            check(not self.job, f"{given[0]} is given and a verb too; leave the verb away")
            sending = self.name is not None or self.detach or self.driver != Driver()
            check(not sending, f"{given[0]} is given; name, detach and driver are for a new job")
            check(bool(getattr(self, given[0])), f"{given[0]} is empty; give the name of a job")
        else:
            check(len(self.job) > 0, "no job given; write the verb and its arguments after --")
            right = self.name is None or re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", self.name) is not None
            check(right, f"name is {self.name!r}; use letters, digits, '-', '_' and '.'")
