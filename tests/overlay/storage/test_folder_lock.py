import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from overlay.errors import RequestError, WorkError
from overlay.storage.atomic import write_text_atomically
from overlay.storage.filenames import LOCK_NAME
from overlay.storage.folder_lock import FileLock, FolderLock, LockTiming
from overlay.storage.lock_owner import LockOwner, _start_time
from overlay.storage.path import StoragePath

QUICK = LockTiming(beat=0.05, dead=0.5, poll=0.05)
SECONDS = LockTiming(beat=1, dead=4, poll=0.2)
"""the times of a bucket's objects may be whole seconds"""
HOLD = """
import sys, time
from overlay.storage.folder_lock import FolderLock
from overlay.storage.path import StoragePath
with FolderLock(StoragePath(sys.argv[1]), "train") as lock:
    lock.take()
    print("taken", flush=True)
    time.sleep(600)
"""


@pytest.fixture(params=["disk", "bucket"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> StoragePath:
    if request.param == "disk":
        return StoragePath.of(tmp_path / "out")
    return StoragePath.of(request.getfixturevalue("new_bucket")()) / "out"


def owner(**fields: str | int | None) -> LockOwner:
    elsewhere = replace(LockOwner.current("train"), host="node-7", machine="another boot", pid=1, job="job_5")
    return replace(elsewhere, **fields)  # type: ignore[arg-type]


def plant(folder: StoragePath, of: LockOwner) -> StoragePath:
    """Write the lock of another process."""
    folder.make_folder()
    file = folder / (f"{LOCK_NAME}-{of.token}" if folder.in_bucket else LOCK_NAME)
    write_text_atomically(file, of.to_bytes().decode())
    return file


def locks(folder: StoragePath) -> list[str]:
    return [name for name in folder.children() if name.startswith(LOCK_NAME)]


def ended_process() -> LockOwner:
    """Return an owner of this machine whose process has ended, though another process has its id by now."""
    return replace(LockOwner.current("train"), pid=os.getppid(), started="17")


def compete(folder: str, rounds: int, start: Barrier) -> list[bool]:
    """Ask for the lock of a new folder in each round, at the same moment as another process; return who got it."""
    got = []
    for number in range(rounds):
        start.wait(60)
        try:
            with FolderLock(StoragePath(folder) / f"round-{number}", "predict", LockTiming(poll=0.05)) as lock:
                lock.take()
                got.append(True)
                start.wait(60)
        except RequestError:
            got.append(False)
            start.wait(60)
    return got


def compete_elsewhere(folder: str, rounds: int, start: Barrier, results: "multiprocessing.Queue[list[bool]]") -> None:
    results.put(compete(folder, rounds, start))


@pytest.mark.parametrize("rounds", [8, pytest.param(200, marks=pytest.mark.slow)])
def test_one_of_two_processes_gets_the_lock(folder: StoragePath, rounds: int) -> None:
    """In every other round they compete for the lock of a process that has ended."""
    for number in range(0, rounds, 2):
        plant(folder / f"round-{number}", ended_process())
    context = multiprocessing.get_context("spawn")
    start, results = context.Barrier(2), context.Queue()
    other = context.Process(target=compete_elsewhere, args=(folder.text, rounds, start, results))
    other.start()

    mine = compete(folder.text, rounds, start)

    theirs = results.get(timeout=60)
    other.join(60)
    assert [sum(pair) for pair in zip(mine, theirs, strict=True)] == [1] * rounds
    assert [locks(folder / f"round-{number}") for number in range(rounds)] == [[]] * rounds


def test_a_second_command_is_told_who_works_there(folder: StoragePath) -> None:
    with FolderLock(folder, "prepare") as first:
        first.take()
        before = folder.children()
        with pytest.raises(RequestError, match=rf"overlay prepare on .* \(process {os.getpid()}\) since 20\d\d-.* UTC"):
            FolderLock(folder, "train").__enter__()
        second = FolderLock(folder, "train")
        with pytest.raises(RequestError, match="wait until that ends, or stop it, or name another folder"):
            second.take()
        assert folder.children() == before

    assert locks(folder) == []
    with FolderLock(folder, "train") as third:
        third.take()
        assert len(locks(folder)) == 1


def test_the_lock_of_a_killed_process_is_taken_over_at_once(
    folder: StoragePath, capsys: pytest.CaptureFixture[str]
) -> None:
    command = subprocess.Popen([sys.executable, "-c", HOLD, folder.text], stdout=subprocess.PIPE)
    assert command.stdout is not None
    with command.stdout as output:
        assert output.readline() == b"taken\n"
        with pytest.raises(RequestError, match=rf"process {command.pid}\)"):
            FolderLock(folder, "train").__enter__()
        command.kill()
        command.wait()

    with FolderLock(folder, "train") as lock:
        lock.take()
        assert len(locks(folder)) == 1

    assert capsys.readouterr().err == ""
    assert locks(folder) == []


def test_a_silent_owner_of_another_machine_is_waited_for(
    folder: StoragePath, capsys: pytest.CaptureFixture[str]
) -> None:
    plant(folder, owner())

    with FolderLock(folder, "predict", SECONDS if folder.in_bucket else QUICK) as lock:
        lock.take()
        assert len(locks(folder)) == 1

    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert "overlay train on node-7 (process 1, job job_5) since" in said[0]
    assert "does not work any more" in said[1]


def test_an_owner_of_another_machine_whose_heartbeat_moves_is_left_alone(folder: StoragePath) -> None:
    other = owner()
    file = plant(folder, other)
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(0.3):
            write_text_atomically(file, other.to_bytes().decode())

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(RequestError, match="in use by overlay train on node-7"):
            FolderLock(folder, "predict", LockTiming(dead=60, poll=0.1)).take()
    finally:
        ended.set()
        thread.join()
    assert locks(folder) == [file.name]


def test_times_in_a_bucket_are_the_servers(new_bucket: Callable[[], str], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = StoragePath.of(new_bucket()) / "out"
    plant(folder, owner())
    time.sleep(2.5)
    monkeypatch.setattr(time, "time", lambda: 0.0)

    with FolderLock(folder, "predict", LockTiming(beat=1, dead=1, poll=60)) as lock:
        lock.take()  # by LastModified, without a wait

        assert len(locks(folder)) == 1


def test_a_heartbeat_moves_the_sign_of_life(folder: StoragePath) -> None:
    seen = set[str]()
    with FolderLock(folder, "prepare", LockTiming(beat=0.3, dead=60)) as lock:
        lock.take()
        while len(seen) < 2:
            rival = FolderLock(folder, "train")._store.look()
            assert rival is not None
            seen.add(rival.sign)
            time.sleep(0.1)


def test_a_folder_that_was_made_for_the_lock_goes_with_it(tmp_path: Path) -> None:
    def refuse(lock: FolderLock) -> None:
        lock.take()
        raise RequestError("wrong")

    with pytest.raises(RequestError, match="wrong"), FolderLock(StoragePath.of(tmp_path / "a" / "b"), "train") as lock:
        refuse(lock)
    assert list(tmp_path.iterdir()) == []

    with FolderLock(StoragePath.of(tmp_path / "a" / "b"), "train") as lock:
        lock.take()
        (tmp_path / "a" / "b" / "config.yaml").touch()
    assert sorted(each.name for each in tmp_path.rglob("*")) == ["a", "b", "config.yaml"]


def test_a_place_that_can_t_be_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RequestError, match="file is a file; name a folder"):
        FolderLock(StoragePath.of(tmp_path / "file"), "train").take()
    with pytest.raises(RequestError, match="can't be written to"):
        FolderLock(StoragePath.of(tmp_path / "file" / "out"), "train").take()


def test_a_lock_that_is_lost_ends_the_work(folder: StoragePath) -> None:
    def work(lock: FolderLock) -> None:
        lock.take()
        (folder / locks(folder)[0]).remove()
        time.sleep(60)

    with pytest.raises(WorkError, match="is lost"), FolderLock(folder, "train", LockTiming(beat=0.1)) as lock:
        work(lock)


LOSE = """
import sys, time
from overlay.cli.signals import SignalWatch
from overlay.errors import WorkError
from overlay.storage.folder_lock import FolderLock, LockTiming
from overlay.storage.path import StoragePath
try:
    with SignalWatch("train"), FolderLock(StoragePath(sys.argv[1]), "train", LockTiming(beat=0.1)) as lock:
        lock.take()
        for file in (StoragePath(sys.argv[1]) / name for name in StoragePath(sys.argv[1]).children()):
            file.remove()
        time.sleep(60)
except WorkError as error:
    print(error)
"""


def test_a_lock_that_is_lost_ends_a_command_in_the_background(tmp_path: Path) -> None:
    def ignore() -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell without job control does

    words = [sys.executable, "-c", LOSE, str(tmp_path / "out")]
    done = subprocess.run(words, preexec_fn=ignore, capture_output=True, text=True, check=False, timeout=50)
    assert "is lost" in done.stdout, done.stderr


def test_a_process_that_was_stopped_for_long_does_not_renew_its_lock(tmp_path: Path) -> None:
    def work(lock: FolderLock) -> None:
        lock.take()
        time.sleep(60)

    timing = LockTiming(beat=0.3, dead=0.4)
    with (
        pytest.raises(WorkError, match="is lost"),
        FolderLock(StoragePath.of(tmp_path / "out"), "train", timing) as lock,
    ):
        work(lock)


def test_the_lock_of_one_that_took_over_and_died_is_taken_over_in_turn(tmp_path: Path) -> None:
    first, second = ended_process(), replace(ended_process(), token="0" * 32)
    (tmp_path / LOCK_NAME).write_bytes(first.to_bytes())
    (tmp_path / f"{LOCK_NAME}.{first.token}.tmp").write_bytes(second.to_bytes())
    (tmp_path / f"{LOCK_NAME}.{'1' * 32}.tmp").touch()  # of a process that was killed while it asked

    with FolderLock(StoragePath.of(tmp_path), "train") as lock:
        lock.take()
        assert os.listdir(tmp_path) == [LOCK_NAME]  # noqa: PTH208
        assert json.loads((tmp_path / LOCK_NAME).read_text())["pid"] == os.getpid()


def test_a_record_that_can_t_be_read_is_waited_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / LOCK_NAME).touch()

    with FolderLock(StoragePath.of(tmp_path), "train", QUICK) as lock:
        lock.take()

    assert "another process" in capsys.readouterr().err


@pytest.fixture(params=["no hard links", "answer lost"])
def odd_links(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.link

    def link(source: Path, target: Path) -> None:
        if request.param == "no hard links":
            raise PermissionError(1, "Operation not permitted")
        real(source, target)
        raise FileExistsError(17, "File exists")

    monkeypatch.setattr(os, "link", link)


def test_the_lock_without_hard_links_and_with_a_lost_answer(tmp_path: Path, odd_links: None) -> None:
    (tmp_path / LOCK_NAME).write_bytes(ended_process().to_bytes())

    with FolderLock(StoragePath.of(tmp_path), "train") as lock:
        lock.take()
        with pytest.raises(RequestError, match="in use"):
            FolderLock(StoragePath.of(tmp_path), "train").take()

    assert list(tmp_path.iterdir()) == []


def test_the_lock_of_a_file_lies_beside_it(folder: StoragePath) -> None:
    with FileLock(folder / "model.onnx", "export") as lock:
        lock.take()
        with pytest.raises(RequestError, match=r"model.onnx\S* is in use by overlay export"):
            FileLock(folder / "model.onnx", "export").take()
        with FileLock(folder / "other.onnx", "export") as other, FolderLock(folder, "train") as whole:
            other.take()
            whole.take()
            assert len(folder.children()) == 3
        assert len(folder.children()) == 1
        assert folder.contents() == []


def test_workers_of_a_killed_command_are_waited_for(tmp_path: Path) -> None:
    folder = StoragePath.of(tmp_path)
    FolderLock(folder, "train").wait_for_release()
    command = subprocess.Popen([sys.executable, "-c", HOLD, folder.text], stdout=subprocess.PIPE)
    assert command.stdout is not None
    with command.stdout as output:
        assert output.readline() == b"taken\n"
        threading.Timer(0.3, command.kill).start()
        FolderLock(folder, "train", LockTiming(dead=60, poll=0.05)).wait_for_release()
    assert command.wait() == -signal.SIGKILL

    with FolderLock(folder, "train") as lock:
        lock.take()
        FolderLock(folder, "train", QUICK).wait_for_release()  # no longer than for a silent owner


@pytest.mark.parametrize(
    "environment",
    [
        {"RAY_JOB_CONFIG_JSON_ENV_VAR": '{"metadata": {"job_submission_id": "raysubmit_1"}}', "SLURM_JOB_ID": "7"},
        {"SLURM_JOB_ID": "raysubmit_1"},
    ],
)
def test_the_job_of_an_owner(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    assert LockOwner.current("train").job == "raysubmit_1"


def test_a_process_is_known_by_its_id_and_its_start() -> None:
    mine = LockOwner.current("train")
    assert mine.runs is True
    assert replace(mine, started="17").runs is False
    assert replace(mine, pid=2**22 + 1).runs is False
    assert replace(mine, machine="another", started="17").runs is None
    assert replace(mine, started=None).runs is None

    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    of_child = replace(mine, pid=child.pid, started=_start_time(child.pid))
    assert of_child.runs is True
    os.kill(child.pid, signal.SIGKILL)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert of_child.runs is False  # though its parent has not asked for its status
    child.communicate()
    assert of_child.runs is False
