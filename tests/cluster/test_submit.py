"""Verbs as Ray jobs: against a stand-in for the job server, and against a real head with a token."""

import os
import secrets
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from cluster import submit as module
from cluster.submit import submit
from overlay.errors import RequestError, WorkError


@dataclass
class Server:
    """A job server with one job, which ends at once."""

    status: str = "SUCCEEDED"
    code: int | None = 0
    lost: Exception | KeyboardInterrupt | None = None
    sent: dict[str, Any] | None = None

    def submit_job(self, **request: object) -> str:
        self.sent = request
        return "job-1"

    async def tail_job_logs(self, job: str) -> AsyncIterator[str]:
        yield f"log of {job}\n"
        if self.lost:
            raise self.lost

    def get_job_info(self, job: str) -> SimpleNamespace:
        from ray.job_submission import JobStatus

        assert job == "job-1"
        return SimpleNamespace(status=JobStatus(self.status), driver_exit_code=self.code, message="out of\nmemory")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    server = Server()
    monkeypatch.setattr(module, "_client", Mock(return_value=server))
    return server


@pytest.mark.parametrize(("code", "status"), [(0, 0), (1, 1), (2, 2), (-15, 143)])
def test_the_status_of_the_job_is_returned(
    server: Server, capsys: pytest.CaptureFixture[str], code: int, status: int
) -> None:
    server.code = code
    assert submit("http://h:8265", ["demo"]) == status
    assert capsys.readouterr().out == "log of job-1\n"


def test_the_job_carries_its_code_and_nothing_of_the_environment(server: Server) -> None:
    submit("http://h:8265", ["train", "/my data", "--out=/r"])
    root = Path(__file__).parents[2]
    assert server.sent == {
        "entrypoint": "python -m overlay train '/my data' --out=/r",
        "runtime_env": {"py_modules": [str(root / name) for name in ("overlay", "pipelines", "cluster")]},
    }


def test_a_job_without_an_exit_status_says_why(server: Server) -> None:
    server.status, server.code = "FAILED", None
    with pytest.raises(WorkError, match="job job-1 ended as FAILED without an exit status: out of memory"):
        submit("http://h:8265", ["demo"])


def test_an_interrupt_leaves_the_job_running(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    server.lost = KeyboardInterrupt()
    assert submit("h:8265", ["demo"]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == (
        "overlay submit: job job-1 goes on; follow it with: ray job logs job-1 --address http://h:8265 --follow; "
        "stop it with: ray job stop job-1 --address http://h:8265"
    )


def test_a_lost_connection_leaves_the_job_running(server: Server) -> None:
    server.lost = RuntimeError("closed")
    with pytest.raises(WorkError, match=r"lost the connection to http://h:8265 \(closed\); job job-1 goes on; follow"):
        submit("http://h:8265", ["demo"])


@pytest.mark.parametrize("address", ["ray://head:10001", "s3://bucket"])
def test_an_address_of_another_kind_is_refused(address: str) -> None:
    with pytest.raises(RequestError, match=f"address is {address}; give the job server's"):
        submit(address, ["demo"])


def test_an_address_where_nothing_answers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "elsewhere:6379")  # Ray would take it in place of the address that is given
    address = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(RequestError) as refusal:
        submit(address, ["demo"])
    assert str(refusal.value).startswith(f"no Ray job server answers at {address} (")
    assert "\n" not in str(refusal.value)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@pytest.fixture
def head(tmp_path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """A Ray head of its own with a token: the address of its job server, and the environment that it wants."""
    short = tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True)  # the path of a socket is limited
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    scripts = sysconfig.get_path("scripts")
    environment |= {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "PATH": f"{scripts}{os.pathsep}{environment['PATH']}",
    }
    gcs, dashboard = free_port(), free_port()
    command = [f"{scripts}/ray", "start", "--head", "--block", "--num-cpus=2", f"--temp-dir={short.name}"]
    command += [f"--port={gcs}", f"--dashboard-port={dashboard}", "--include-dashboard=true"]
    command += [f"--dashboard-agent-listen-port={free_port()}"]
    with (tmp_path / "head.log").open("w") as log:
        process = subprocess.Popen(
            command, env=environment, cwd=tmp_path, stdout=log, stderr=log, start_new_session=True
        )
    try:
        address = f"http://127.0.0.1:{dashboard}"
        wait_for(address, environment["RAY_AUTH_TOKEN"])
        yield address, environment
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # its workers see that their raylet is gone, and end
        process.wait()
        short.cleanup()


def wait_for(address: str, token: str) -> None:
    request = urllib.request.Request(f"{address}/api/version", headers={"Authorization": f"Bearer {token}"})
    for _ in range(120):
        try:
            urllib.request.urlopen(request, timeout=5).close()
        except OSError:
            time.sleep(0.5)
        else:
            return
    pytest.fail("the Ray head did not start")


def overlay(*words: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "overlay", *words]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=300)


@pytest.mark.slow
def test_a_real_head_runs_the_job_and_refuses_a_wrong_token(
    head: tuple[str, dict[str, str]], tmp_path: Path, phantoms: Path
) -> None:
    address, environment = head
    out = tmp_path / "dataset"
    job = ["submit", "--address", address, "--", "prepare"]

    done = overlay(*job, str(phantoms), "--out", str(out), env=environment)
    assert done.returncode == 0, done.stderr
    assert (out / "dataset.json").exists()
    assert f"python -m overlay prepare {phantoms} --out={out}" in done.stdout
    assert environment["RAY_AUTH_TOKEN"] not in done.stdout + done.stderr

    refused = overlay(*job, str(tmp_path / "none"), "--out", str(tmp_path / "other"), env=environment)
    assert refused.returncode == 2
    assert "overlay prepare: source" in refused.stdout

    wrong = overlay(*job, str(phantoms), "--out", str(out), env=environment | {"RAY_AUTH_TOKEN": secrets.token_hex(32)})
    assert wrong.returncode == 2
    assert wrong.stderr == (
        f"overlay submit: the cluster at {address} refuses the token, or got none; set RAY_AUTH_MODE=token and "
        "RAY_AUTH_TOKEN (or RAY_AUTH_TOKEN_PATH) to the cluster's\n"
    )
