"""Submission of a verb as a Ray job: send it with this installation's code, and follow it or leave it."""

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.job_client import connect_job_server, describe_job, follow_commands, follow_job, job_server, submitted_jobs
from overlay.errors import RequestError, WorkError

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

PACKAGES = ("overlay", "pipelines", "cluster")
PACKAGE_BYTES = 100 * 2**20
"""largest request that Ray's job server takes (`DASHBOARD_CLIENT_MAX_SIZE`); each package is one, uncompressed"""


@dataclass(frozen=True)
class Submission:
    """A verb to run on a cluster, and how."""

    words: Sequence[str]
    """verb and arguments"""
    name: str | None = None
    """id of the submission; Ray makes one up where it is None"""
    detach: bool = False
    """return as soon as the job is sent"""
    resources: dict[str, float] = field(default_factory=dict)
    """reserved for the driver: entrypoint_num_cpus, entrypoint_num_gpus, entrypoint_memory (bytes)"""
    variables: dict[str, str] = field(default_factory=dict)
    """environment variables of the job; anyone who sees the job sees them"""

    @property
    def entrypoint(self) -> str:
        """Shell command of the job."""
        return shlex.join(["python", "-m", "overlay", *self.words])


def submit(address: str, submission: Submission) -> int:
    """Run `python -m overlay WORDS` on the cluster with this installation's code, and return the job's exit status.

    A running job of the same name is attached to; an ended one is removed first, since Ray takes a name once. The image
    of the cluster needs Overlay's dependencies only. SIGINT (Ctrl-C) and SIGTERM leave the job running and return 130
    and 143.

    Raises:
        RequestError: no job server answers at the address, it refuses the token, the code is larger than it takes, or
            a running job of this name is another one.
        WorkError: the job could not be sent or started, was stopped, or the connection was lost while it ran.
    """
    address = job_server(address)
    packages = [package_folder(package) for package in PACKAGES]
    for package in packages:
        check_size(package)
    client = connect_job_server(address)
    job = submission.name
    if job is None or not _is_running(client, address, submission):
        job = _send(client, address, submission, packages)
        print(f"overlay submit: job {job} on {address}", file=sys.stderr)
    if submission.detach:
        print(f"overlay submit: {follow_commands(address, job)}", file=sys.stderr)
        print(job)
        return 0
    return follow_job(client, address, job)


def package_folder(package: str) -> Path:
    """Return the folder of an installed package.

    Raises:
        WorkError: the package is not installed.
    """
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise WorkError(f"the package {package} is not installed beside overlay; install the project again")
    return Path(spec.submodule_search_locations[0])


def check_size(folder: Path) -> None:
    """Check that the job server takes a package; Ray sends it without __pycache__, and without compression.

    Raises:
        RequestError: the files have more than 100 MiB; the message names the largest.
    """
    sizes = {
        Path(parent, file): Path(parent, file).stat().st_size
        for parent, _, files in os.walk(folder)
        if "__pycache__" not in Path(parent).parts
        for file in files
    }
    if sum(sizes.values()) > PACKAGE_BYTES:
        largest = sorted(sizes, key=lambda file: sizes[file], reverse=True)[:3]
        named = ", ".join(f"{file} ({sizes[file] / 2**20:.0f} MiB)" for file in largest)
        raise RequestError(
            f"{folder} has {sum(sizes.values()) / 2**20:.0f} MiB, and a job server takes {PACKAGE_BYTES / 2**20:.0f}; "
            f"the code is sent with every job, so keep data elsewhere; the largest files are {named}"
        )


def _is_running(client: "JobSubmissionClient", address: str, submission: Submission) -> bool:
    """Whether a job of the submission's name runs already; one that has ended is removed.

    Raises:
        RequestError: it runs another command.
    """
    name = submission.name or ""
    found = submitted_jobs(client, address).get(name)
    if found is None:
        return False
    if found.status.is_terminal():
        print(f"overlay submit: sent again; before: {describe_job(found)}", file=sys.stderr)
        try:
            client.delete_job(name)
        except (RuntimeError, OSError) as error:
            raise WorkError(f"the ended job {name} at {address} can't be removed: {error}") from None
        return False
    if found.entrypoint != submission.entrypoint:
        raise RequestError(
            f"name is {name}, and a job of this name runs at {address} with another command, {found.entrypoint}; "
            "give another name"
        )
    print(f"overlay submit: job {name} runs at {address} already; attached to it", file=sys.stderr)
    return True


def _send(client: "JobSubmissionClient", address: str, submission: Submission, packages: Sequence[Path]) -> str:
    """Send the code and the command, and return the id of the job.

    Raises:
        WorkError: the job server does not take it.
    """
    environment: dict[str, object] = {"py_modules": [str(each) for each in packages], "excludes": ["__pycache__"]}
    if submission.variables:
        environment["env_vars"] = submission.variables
    try:
        job: str = client.submit_job(
            entrypoint=submission.entrypoint,
            submission_id=submission.name,
            runtime_env=environment,
            **submission.resources,  # type: ignore[arg-type]  # numbers of CPUs and GPUs, and bytes
        )
    except (RuntimeError, OSError) as error:
        raise WorkError(f"the job could not be sent to {address}: {error}") from None
    return job
