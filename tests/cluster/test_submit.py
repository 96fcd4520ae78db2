"""Verbs as Ray jobs: against a stand-in for the job server, and against a real head with a token."""

import os
import re
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
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from cluster import job_client
from cluster import submit as module
from cluster.job_client import JobAction, act_on_job, describe_job
from cluster.submit import PACKAGE_BYTES, Submission, check_size, submit
from overlay.errors import RequestError, WorkError


@dataclass
class Server:
    """A job server with one job, which ends when its log was read, or when it is stopped."""

    status: str = "SUCCEEDED"
    code: int | None = 0
    lost: Exception | KeyboardInterrupt | None = None
    before: str | None = None
    """status of a job of the same name, or of job-1, that was sent before"""
    sent: dict[str, Any] | None = None
    calls: list[str] = field(default_factory=list)

    def submit_job(self, **request: object) -> str:
        self.sent = request
        self.before = self.status
        return str(request["submission_id"] or "job-1")

    def list_jobs(self) -> list[SimpleNamespace]:
        return [self.details("job-1"), SimpleNamespace(submission_id=None)] if self.before else []

    def get_job_info(self, job: str) -> SimpleNamespace:
        return self.details(job)

    def details(self, job: str) -> SimpleNamespace:
        from ray.job_submission import JobStatus

        status = JobStatus(self.before or self.status)
        return SimpleNamespace(
            submission_id=job,
            status=status,
            driver_exit_code=self.code if status.is_terminal() else None,
            message="out of\nmemory",
            entrypoint="python -m overlay demo",
            start_time=None,
            end_time=None,
        )

    async def tail_job_logs(self, job: str) -> AsyncIterator[str]:
        yield f"log of {job}\n"
        if self.lost:
            raise self.lost
        self.before = self.status

    def get_job_logs(self, job: str) -> str:
        return f"log of {job}\n"

    def stop_job(self, job: str) -> bool:
        self.calls.append(f"stop {job}")
        self.before = "STOPPED"
        return True

    def delete_job(self, job: str) -> bool:
        self.calls.append(f"delete {job}")
        return True


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    server = Server()
    for each in (module, job_client):
        monkeypatch.setattr(each, "connect_job_server", Mock(return_value=server))
    monkeypatch.setattr("time.sleep", Mock())
    return server


DEMO = Submission(["demo"])
NAMED = Submission(["demo"], name="job-1")


@pytest.mark.parametrize(("code", "status"), [(0, 0), (1, 1), (2, 2), (-15, 143)])
def test_the_status_of_the_job_is_returned(
    server: Server, capsys: pytest.CaptureFixture[str], code: int, status: int
) -> None:
    server.code = code
    assert submit("http://h:8265", DEMO) == status
    assert capsys.readouterr().out == "log of job-1\n"


def test_the_job_carries_its_code_and_nothing_of_the_environment(server: Server) -> None:
    submit("http://h:8265", Submission(["train", "/my data", "--out=/r"]))
    root = Path(__file__).parents[2]
    assert server.sent == {
        "entrypoint": "python -m overlay train '/my data' --out=/r",
        "submission_id": None,
        "runtime_env": {
            "py_modules": [str(root / name) for name in ("overlay", "pipelines", "cluster")],
            "excludes": ["__pycache__"],
        },
    }


def test_the_driver_has_resources_and_variables(server: Server) -> None:
    submit("h:8265", Submission(["demo"], "job-1", False, {"entrypoint_num_cpus": 1.0}, {"A": "b"}))
    assert server.sent is not None
    assert (server.sent["submission_id"], server.sent["entrypoint_num_cpus"]) == ("job-1", 1.0)
    assert server.sent["runtime_env"]["env_vars"] == {"A": "b"}


def test_a_detached_job_prints_its_name(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    server.lost = AssertionError("the log was read")
    assert submit("h:8265", Submission(["demo"], detach=True)) == 0
    shown = capsys.readouterr()
    assert shown.out == "job-1\n"
    assert "overlay submit --address http://h:8265 --attach job-1; stop it with: overlay submit" in shown.err


def test_a_running_job_of_the_name_is_attached_to(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    server.before = "RUNNING"
    assert submit("h:8265", NAMED) == 0
    assert server.sent is None
    assert capsys.readouterr().out == "log of job-1\n"

    server.before = "RUNNING"
    with pytest.raises(RequestError, match="name is job-1, and a job of this name runs at http://h:8265 with another"):
        submit("h:8265", Submission(["train"], name="job-1"))


def test_an_ended_job_of_the_name_is_sent_again(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    server.before = "FAILED"
    assert submit("h:8265", NAMED) == 0
    assert server.calls == ["delete job-1"]
    assert server.sent is not None
    assert "sent again; before: job-1: FAILED, exit status 0" in capsys.readouterr().err


def test_a_pending_job_says_what_it_waits_for(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = count(0, 20)
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    pauses = iter(["PENDING"] * 4 + ["RUNNING"])
    monkeypatch.setattr("time.sleep", lambda _: setattr(server, "before", next(pauses, "SUCCEEDED")))
    server.before = "PENDING"
    assert act_on_job("h:8265", "attach", "job-1") == 0
    said = [line for line in capsys.readouterr().err.splitlines() if "pending" in line]
    assert said[0] == "overlay submit: job job-1 is pending for 60 s: out of memory"


def test_the_log_the_status_and_the_end_of_a_job(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    server.before = "RUNNING"
    assert act_on_job("h:8265", "logs", "job-1") == 0
    assert act_on_job("h:8265", "status", "job-1") == 0
    assert capsys.readouterr().out == "log of job-1\njob-1: RUNNING, out of memory; python -m overlay demo\n"
    server.code = -15
    assert act_on_job("h:8265", "stop", "job-1") == 0
    assert server.calls == ["stop job-1"]
    assert capsys.readouterr().out == "job-1: STOPPED, exit status 143, out of memory; python -m overlay demo\n"
    assert act_on_job("h:8265", "stop", "job-1") == 0  # it has ended
    assert server.calls == ["stop job-1"]


@pytest.mark.parametrize("action", ["attach", "status", "logs", "stop"])
def test_an_unknown_job_is_refused(server: Server, action: JobAction) -> None:
    with pytest.raises(RequestError, match="there is no job job-2 at http://h:8265; it has none"):
        act_on_job("h:8265", action, "job-2")
    server.before = "RUNNING"
    with pytest.raises(RequestError, match="there is no job job-2 at http://h:8265; it has job-1"):
        act_on_job("h:8265", action, "job-2")


def test_the_times_of_a_job_are_said(server: Server) -> None:
    details = server.details("job-1")
    details.start_time, details.end_time = 1_000, 62_000
    assert re.search(r"started 19\S+ \S+:01, ended 19\S+ \S+:02, ", describe_job(details))  # type: ignore[arg-type]


def test_code_that_the_job_server_would_not_take_is_refused(tmp_path: Path) -> None:
    (tmp_path / "__pycache__").mkdir()
    for name, size in (("a.py", 10), ("weights.pth", PACKAGE_BYTES), ("__pycache__/a.pyc", PACKAGE_BYTES)):
        with (tmp_path / name).open("wb") as file:
            file.truncate(size)
    with pytest.raises(RequestError, match=r"a job server takes 100; .* are \S+weights.pth \(100 MiB\)"):
        check_size(tmp_path)
    (tmp_path / "weights.pth").unlink()
    check_size(tmp_path)


def test_the_limit_is_that_of_ray_s_job_server() -> None:
    from ray._private.ray_constants import DASHBOARD_CLIENT_MAX_SIZE

    assert PACKAGE_BYTES == DASHBOARD_CLIENT_MAX_SIZE


def test_a_job_without_an_exit_status_says_why(server: Server) -> None:
    server.status, server.code = "FAILED", None
    with pytest.raises(WorkError, match="job job-1 ended as FAILED without an exit status: out of memory"):
        submit("http://h:8265", DEMO)


def test_an_interrupt_leaves_the_job_running(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    server.lost = KeyboardInterrupt()
    assert submit("h:8265", DEMO) == 130
    assert capsys.readouterr().err.splitlines()[-1] == (
        "overlay submit: job job-1 goes on; follow it with: overlay submit --address http://h:8265 --attach job-1; "
        "stop it with: overlay submit --address http://h:8265 --stop job-1"
    )


def test_a_lost_connection_leaves_the_job_running(server: Server) -> None:
    server.lost = RuntimeError("closed")
    with pytest.raises(WorkError, match=r"lost the connection to http://h:8265 \(closed\); job job-1 goes on; follow"):
        submit("http://h:8265", DEMO)


@pytest.mark.parametrize("address", ["ray://head:10001", "s3://bucket"])
def test_an_address_of_another_kind_is_refused(address: str) -> None:
    with pytest.raises(RequestError, match=f"address is {address}; give the job server's"):
        submit(address, DEMO)


def test_an_address_where_nothing_answers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "elsewhere:6379")  # Ray would take it in place of the address that is given
    address = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(RequestError) as refusal:
        submit(address, DEMO)
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

    named = ["submit", "--address", address, "--name", "again", "--detach", "--", "prepare", str(phantoms)]
    sent = overlay(*named, "--out", str(tmp_path / "third"), env=environment)
    assert (sent.returncode, sent.stdout) == (0, "again\n")
    act = ["submit", "--address", address]
    acts = {name: overlay(*act, f"--{name}", "again", env=environment) for name in ("attach", "logs", "status", "stop")}
    assert [done.returncode for done in acts.values()] == [0, 0, 0, 0]
    assert (tmp_path / "third" / "dataset.json").exists()
    assert all("again: SUCCEEDED, exit status 0" in acts[act].stdout for act in ("status", "stop"))
    again = overlay(*named, "--out", str(tmp_path / "third"), env=environment)
    assert (again.returncode, again.stdout) == (0, "again\n"), again.stderr

    wrong = overlay(*job, str(phantoms), "--out", str(out), env=environment | {"RAY_AUTH_TOKEN": secrets.token_hex(32)})
    assert wrong.returncode == 2
    assert wrong.stderr == (
        f"overlay submit: the cluster at {address} refuses the token, or got none; set RAY_AUTH_MODE=token and "
        "RAY_AUTH_TOKEN (or RAY_AUTH_TOKEN_PATH) to the cluster's\n"
    )
