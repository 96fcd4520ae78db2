"""Submission of a verb as a Ray job: send it, stream its log, return its exit status."""

import asyncio
import logging
import os
import shlex
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

from cluster.session import TOKEN_ADVICE
from overlay.errors import RequestError, WorkError

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

PACKAGES = ("overlay", "pipelines", "cluster")
_NOISY_LOGGERS = (  # a line for each package that is sent, and one for the end of the log
    "ray._private.runtime_env.packaging",
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
)


def submit(address: str, words: Sequence[str]) -> int:
    """Run `python -m overlay WORDS` on the cluster with this installation's code, and return the job's exit status.

    The image of the cluster needs Overlay's dependencies only. Ctrl-C leaves the job running and returns 130.

    Raises:
        RequestError: no job server answers at the address, or it refuses the token.
        WorkError: the job could not be sent or started, was stopped, or the connection was lost while it ran.
    """
    address = address if "://" in address else f"http://{address}"
    client = _client(address)
    try:
        job = client.submit_job(
            entrypoint=shlex.join(["python", "-m", "overlay", *words]),
            runtime_env={"py_modules": [_folder(package) for package in PACKAGES]},
        )
    except (RuntimeError, OSError) as error:
        raise WorkError(f"the job could not be sent to {address}: {error}") from None
    commands = (
        f"follow it with: ray job logs {job} --address {address} --follow; "
        f"stop it with: ray job stop {job} --address {address}"
    )
    print(f"overlay submit: job {job} on {address}", file=sys.stderr)
    try:
        return _follow(client, job)
    except KeyboardInterrupt:
        print(f"\noverlay submit: job {job} goes on; {commands}", file=sys.stderr)
        return 130
    except OSError as error:
        raise WorkError(f"lost the connection to {address} ({error}); job {job} goes on; {commands}") from None


def _client(address: str) -> "JobSubmissionClient":
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


def _folder(package: str) -> str:
    """Return the folder of an installed package.

    Raises:
        WorkError: the package is not installed.
    """
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise WorkError(f"the package {package} is not installed beside overlay; install the project again")
    return spec.submodule_search_locations[0]


def _follow(client: "JobSubmissionClient", job: str) -> int:
    """Print the job's log until it ends, and return its exit status.

    Raises:
        OSError: the connection was lost.
        WorkError: the job ended without an exit status: it did not start, or was stopped.
    """
    import aiohttp

    try:
        asyncio.run(_print_log(client, job))
        while not (details := client.get_job_info(job)).status.is_terminal():
            time.sleep(1)
    except (aiohttp.ClientError, RuntimeError) as error:
        raise OSError(error) from None
    if details.driver_exit_code is None:
        reason = " ".join((details.message or "no reason given").split())
        raise WorkError(f"job {job} ended as {details.status.value} without an exit status: {reason}")
    code: int = details.driver_exit_code
    return code if code >= 0 else 128 - code  # ended by a signal: the number that a shell would give


async def _print_log(client: "JobSubmissionClient", job: str) -> None:
    async for text in client.tail_job_logs(job):
        print(text, end="", flush=True)
