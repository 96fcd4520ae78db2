"""Which cluster a job joins."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.session import check_address, choose_temporary_folder
from overlay.errors import RequestError


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("nonsense", "RAY_ADDRESS is 'nonsense'; give it as host:port"),
        ("host:port", "RAY_ADDRESS is 'host:port'; give it as host:port"),
        (":6379", "RAY_ADDRESS is ':6379'; give it as host:port"),
        ("127.0.0.1:99999", "no Ray cluster answers at RAY_ADDRESS=127.0.0.1:99999"),
        ("http://head:8265", "RAY_ADDRESS is http://head:8265, which this command can't join; use overlay submit"),
        ("ray://head:10001", "RAY_ADDRESS is ray://head:10001, which this command can't join; use overlay submit"),
    ],
)
def test_an_address_that_can_not_be_joined_is_refused(address: str, reason: str) -> None:
    with pytest.raises(RequestError) as refusal:
        check_address(address)
    assert str(refusal.value).startswith(reason)
    assert "\n" not in str(refusal.value)


def test_an_address_where_nothing_answers_is_refused() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(RequestError, match=f"no Ray cluster answers at RAY_ADDRESS={address}"):
            check_address(address)


def test_an_address_where_something_listens_is_tried() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        check_address(f"127.0.0.1:{server.getsockname()[1]}")
    check_address("auto")


@pytest.mark.usefixtures("ray_session")
def test_workers_have_the_priority_of_the_command() -> None:
    import ray

    @ray.remote(num_cpus=0)
    def niceness() -> int:
        return os.nice(0)

    assert ray.get(niceness.remote()) == os.nice(0)


@pytest.mark.parametrize(
    ("own", "common", "chosen"),
    [
        (None, "/x" * 30, "/tmp"),
        (None, "/tmp", None),
        ("/var/tmp", "/x" * 30, "/var/tmp"),
    ],
)
def test_a_folder_too_long_for_sockets_is_not_used_by_ray(
    own: str | None, common: str, chosen: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", own or "")
    monkeypatch.setenv("TMPDIR", common)
    choose_temporary_folder()
    assert (os.environ["RAY_TMPDIR"] or None) == chosen


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ("/x" * 30, "too long for the names of Ray's sockets; set it to a path of at most 38 bytes"),
        ("/nonexistent", "Ray can't write to /nonexistent; set RAY_TMPDIR to a folder that can be written to"),
    ],
)
def test_a_folder_that_ray_cannot_use_is_refused(own: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", own)
    with pytest.raises(RequestError, match=message):
        choose_temporary_folder()


PROGRAM = """
import json, os, time
import psutil
from cluster import session
session.connect_while_importing("ray.data")
session.connect()
import ray.data
rows = ray.data.range(3).map(lambda row: {"a": row["id"] + 1}).take_all()
idle = ray.get(ray.remote(num_cpus=0.1)(lambda: os.getpid()).remote())
time.sleep(2)  # Ray ends idle processes after one second by default, and the next task would wait for a new one
print(json.dumps([session.resources().cpus >= 2, sorted(row["a"] for row in rows), psutil.pid_exists(idle)]))
"""


@pytest.mark.slow
def test_a_local_session_is_quiet_and_its_token_is_private(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment["HOME"] = str(tmp_path)
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert json.loads(done.stdout) == [True, [1, 2, 3], True]
    token = tmp_path / ".ray" / "auth_token"
    assert token.stat().st_mode & 0o777 == 0o600
    assert len(token.read_text()) >= 32


_NEVER_STARTS = """
import time, ray
from cluster import session
session.START_WORD_SECONDS, session.START_SECONDS = 0.2, 1.0
ray.init = lambda **_: time.sleep(60)
session.connect()
"""


def test_a_start_that_does_not_return_ends_the_process_with_a_line() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "-c", _NEVER_STARTS], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert lines[-2] == "waiting for Ray to start on this machine for 0 s"
    assert re.fullmatch(r"overlay: Ray did not start on this machine in 1 s; its logs are in .*/ray; .*", lines[-1])
