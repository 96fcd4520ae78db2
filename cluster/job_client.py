"""Ray jobs on a cluster: connecting to its job server, following, stopping and describing a job."""

import asyncio
import logging
import os
import sys
import time
from datetime import datetime
from typing import TYPE_CHECKING, Literal

from cluster.session import TOKEN_ADVICE
from overlay.errors import RequestError, WorkError, interruption_status

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

JobAction = Literal["attach", "status", "logs", "stop"]
PENDING_SECONDS = 30.0
"""seconds between two lines about a job that has not started"""
_NOISY_LOGGERS = (  # a line for each package that is sent, and one for the end of the log
    "ray._private.runtime_env.packaging",
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
)


def act_on_job(address: str, action: JobAction, job: str) -> int:
    """Attach to a job, print its status or its log, or stop it; return the exit status of this command.

    Attaching returns the job's own exit status, the other three 0.

    Raises:
        RequestError: no job server answers at the address, it refuses the token, or it has no such job.
        WorkError: the connection was lost, or the job that was attached to ended without an exit status.
    """
    address = job_server(address)
    client = connect_job_server(address)
    details = find_job(client, address, job)
    if action == "attach":
        return follow_job(client, address, job)
    try:
        if action == "status":
            print(describe_job(details))
        elif action == "logs":
            print(client.get_job_logs(job), end="")
        else:
            _stop_job(client, job)
    except (RuntimeError, OSError) as error:
        raise WorkError(f"lost the connection to {address}: {_line(error)}") from None
    return 0


def job_server(address: str) -> str:
    """Return the address of a job server with its scheme, which is http where none is given."""
    return address if "://" in address else f"http://{address}"


def connect_job_server(address: str) -> "JobSubmissionClient":
    """Connect to a job server, http://host:port.

    Raises:
        RequestError: nothing answers there, or it refuses the token.
    """
    if not address.startswith(("http://", "https://")):
        raise RequestError(f"address is {address}; give the job server's, for example http://head:8265")
    for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):
        os.environ.pop(name, None)  # Ray would prefer them to the address that was asked for
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    for name in _NOISY_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        return JobSubmissionClient(address)
    except AuthenticationError:
        raise RequestError(f"the cluster at {address} refuses the token, or got none; {TOKEN_ADVICE}") from None
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise RequestError(
            f"no Ray job server answers at {address} ({error}); check the address (port 8265 by default) and that "
            "the cluster runs"
        ) from None


def find_job(client: "JobSubmissionClient", address: str, job: str) -> "JobDetails":
    """Return the details of a submitted job.

    Raises:
        RequestError: there is no such job; the message names those there are.
        WorkError: the job server does not answer.
    """
    jobs = submitted_jobs(client, address)
    if job not in jobs:
        known = f"it has {', '.join(sorted(jobs)[-10:])}" if jobs else "it has none"
        raise RequestError(f"there is no job {job} at {address}; {known}")
    return jobs[job]


def submitted_jobs(client: "JobSubmissionClient", address: str) -> dict[str, "JobDetails"]:
    """Return the submitted jobs that a cluster knows, running or ended, by their ids.

    Raises:
        WorkError: the job server does not answer.
    """
    try:
        return {each.submission_id: each for each in client.list_jobs() if each.submission_id}
    except (RuntimeError, OSError) as error:
        raise WorkError(f"can't list the jobs at {address}: {_line(error)}") from None


def describe_job(details: "JobDetails") -> str:
    """Return the state of a job in one line: status, exit status, times, message, command."""
    parts = [f"{details.submission_id}: {details.status.value}"]
    if details.driver_exit_code is not None:
        parts.append(f"exit status {exit_status(details.driver_exit_code)}")
    for name, milliseconds in (("started", details.start_time), ("ended", details.end_time)):
        if milliseconds:
            parts.append(f"{name} {datetime.fromtimestamp(milliseconds / 1000).isoformat(' ', 'seconds')}")
    if details.message:
        parts.append(" ".join(details.message.split()))
    return ", ".join(parts) + f"; {details.entrypoint}"


def exit_status(code: int) -> int:
    """Return the exit status as a shell gives it: 128 + N for a process that signal N ended."""
    return code if code >= 0 else 128 - code


def follow_commands(address: str, job: str) -> str:
    """Return the commands that follow and stop a job, as an advice."""
    command = f"overlay submit --address {address}"
    return f"follow it with: {command} --attach {job}; stop it with: {command} --stop {job}"


def follow_job(client: "JobSubmissionClient", address: str, job: str) -> int:
    """Print the job's log until it ends, and return its exit status; Ctrl-C leaves it running and returns 130.

    Raises:
        WorkError: the connection was lost, or the job ended without an exit status: it did not start, or was stopped.
    """
    try:
        details = _follow(client, job)
    except KeyboardInterrupt as interrupt:
        print(f"\noverlay submit: job {job} goes on; {follow_commands(address, job)}", file=sys.stderr)
        return interruption_status(interrupt)
    except OSError as error:
        advice = follow_commands(address, job)
        raise WorkError(f"lost the connection to {address} ({error}); job {job} goes on; {advice}") from None
    if details.driver_exit_code is None:
        reason = " ".join((details.message or "no reason given").split())
        raise WorkError(f"job {job} ended as {details.status.value} without an exit status: {reason}")
    return exit_status(details.driver_exit_code)


def _follow(client: "JobSubmissionClient", job: str) -> "JobDetails":
    """Print the job's log until it ends, and return its last details.

    Raises:
        OSError: the connection was lost.
    """
    import aiohttp

    try:
        _wait_until_started(client, job)
        asyncio.run(_print_log(client, job))
        while not (details := client.get_job_info(job)).status.is_terminal():
            time.sleep(1)
    except (aiohttp.ClientError, RuntimeError) as error:
        raise OSError(error) from None
    return details


def _wait_until_started(client: "JobSubmissionClient", job: str) -> None:
    """Wait while the job is pending, and say every 30 seconds what Ray says of it."""
    began = said = time.monotonic()
    while (details := client.get_job_info(job)).status.value == "PENDING":
        time.sleep(1)
        if time.monotonic() - said >= PENDING_SECONDS:
            said = time.monotonic()
            reason = " ".join((details.message or "no reason given").split())
            print(f"overlay submit: job {job} is pending for {said - began:.0f} s: {reason}", file=sys.stderr)


async def _print_log(client: "JobSubmissionClient", job: str) -> None:
    async for text in client.tail_job_logs(job):
        print(text, end="", flush=True)


def _stop_job(client: "JobSubmissionClient", job: str) -> None:
    """Stop a job, and wait until it has saved and ended; of an ended one, print how it ended."""
    if not client.get_job_info(job).status.is_terminal():
        client.stop_job(job)
        print(f"overlay submit: job {job} was told to save and stop", file=sys.stderr)
        while not client.get_job_info(job).status.is_terminal():
            time.sleep(1)
    print(describe_job(client.get_job_info(job)))


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
