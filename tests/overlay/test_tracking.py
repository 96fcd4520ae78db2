import json
import math
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import wandb

from overlay.config import Tracking, Train
from overlay.errors import RequestError, WorkError
from overlay.evaluation import estimates
from overlay.storage.path import StoragePath
from overlay.tracking import WandbRun, describe_mode, resolve_mode
from overlay.training.history import Epoch

KEY = "0123456789abcdef0123456789abcdef01234567"
EPOCHS = [
    Epoch(1, 0.75, 0.5, 0.5, 0.5, 0.25, 1e-4, 10.0, 2.0, 0.5, 5.0, None, 0.25),
    Epoch(2, 0.5, 0.75, 0.25, 0.75, 0.5, 5e-5, 20.0, 1.0, 0.25, 10.0, 20.0, None),
]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without a key, and a W&B that keeps its own files there."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    for name in ("WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_MODE", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(home / name))
    return home


def netrc(file: Path, machine: str = "api.wandb.ai", key: str = KEY) -> None:
    file.write_text(f"machine {machine}\n  login user\n  password {key}\n")


@pytest.mark.parametrize(
    ("mode", "with_key", "without_key"),
    [
        ("auto", "online", "disabled"),
        ("online", "online", None),
        ("offline", "offline", "offline"),
        ("disabled", "disabled", "disabled"),
    ],
)
def test_modes(mode: Any, with_key: str, without_key: str | None, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ANN401
    if without_key is None:
        with pytest.raises(
            RequestError, match=r"^tracking.mode is online, but there is no key; set WANDB_API_KEY or .*$"
        ):
            resolve_mode(Tracking(mode=mode))
    else:
        assert resolve_mode(Tracking(mode=mode)) == without_key
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    assert resolve_mode(Tracking(mode=mode)) == with_key


def test_the_key_of_wandb_login_counts(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc(home / ".netrc")
    assert resolve_mode(Tracking()) == "online"
    monkeypatch.setenv("NETRC", str(home / "elsewhere"))
    assert resolve_mode(Tracking()) == "disabled"
    netrc(home / "elsewhere", machine="other.example")
    assert resolve_mode(Tracking()) == "disabled"


def test_the_key_of_a_server_of_one_s_own_is_known_by_host_and_port(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc(home / ".netrc", machine="localhost:8080")
    assert resolve_mode(Tracking()) == "disabled"
    monkeypatch.setenv("WANDB_BASE_URL", "http://localhost:8080")
    assert resolve_mode(Tracking()) == "online"


@pytest.mark.parametrize("content", ["no netrc at all", "machine api.wandb.ai login user\n", ""])
def test_a_netrc_without_a_key_is_none(home: Path, content: str) -> None:
    (home / ".netrc").write_text(content)
    assert resolve_mode(Tracking()) == "disabled"


def test_says_in_one_line_what_it_does() -> None:
    assert describe_mode(Tracking(), "disabled") == "tracking: disabled, since there is no key of Weights & Biases"
    assert describe_mode(Tracking(mode="disabled"), "disabled") == "tracking: disabled"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OVERLAY_KEY_ELSEWHERE", "1")
        assert "the cluster has no key of Weights & Biases, though the computer that sent" in describe_mode(
            Tracking(), "disabled"
        )
        assert describe_mode(Tracking(mode="disabled"), "disabled") == "tracking: disabled"
    assert describe_mode(Tracking(project="p"), "online") == "tracking: Weights & Biases, online, project p"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of a run whose two epochs were tracked offline, with a key in the environment."""
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    folder = tmp_path / "run"
    folder.mkdir()
    model = folder / "Resnet_fineTuning.pth"
    model.write_bytes(b"weights")
    run = WandbRun(
        Train(dataset="ds", out=str(folder), tracking=Tracking(mode="offline")),
        "offline",
        "ab12cd34",
        StoragePath.of(folder),
    )
    run.log(EPOCHS[:1])
    run.log(EPOCHS)
    probabilities = np.array([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25], [0.25, 0.25, 0.5], [0.25, 0.25, 0.5]])
    evaluation = estimates.compute_evaluation(np.array([0, 1, 2, 1]), probabilities, ("benign", "malignant", "normal"))
    run.finish(evaluation, [0, 1, 2, 1], [0, 1, 2, 2], StoragePath.of(model))
    run.close(failed=False)
    yield folder
    wandb.teardown()


def inspect(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Read an offline run back with W&B's own tool: the records by their types."""
    (run,) = (folder / "wandb").glob("offline-run-*-ab12cd34")
    return read(run)


def read(run: Path) -> dict[str, list[dict[str, Any]]]:
    """Read one command's part of a run."""
    tool = Path(sys.executable).with_name("wandb")
    done = subprocess.run([tool, "leet", "inspect", "--json", run], check=True, capture_output=True, text=True)
    records: dict[str, list[dict[str, Any]]] = {}
    for record in map(json.loads, done.stdout.splitlines()):
        records.setdefault(record["type"], []).append(record[record["type"]])
    return records


def test_an_offline_run_holds_everything_once_and_no_key(folder: Path, home: Path) -> None:
    records = inspect(folder)
    (run,) = records["run"]
    assert (run["run_id"], run["project"], run["display_name"]) == ("ab12cd34", "overlay", "run")
    assert run["config"]["update"]["dataset"] == "ds"
    assert run["config"]["update"]["augment"]["rotation"] == 15
    assert run["config"]["update"]["tracking"] == {
        "mode": "offline",
        "project": "overlay",
        "entity": None,
        "name": None,
    }

    rows = [record["item"] for record in records["history"]]
    assert [record["step"]["num"] for record in records["history"]] == [1, 2, 3]
    assert [[row["epoch"], row["val_loss"], row["seconds"]] for row in rows[:2]] == [[1, 0.5, 2], [2, 0.25, 1]]
    cost = ("images_per_core_second", "images_per_gpu_second", "device_wait_share")
    assert [[row.get(name) for name in cost] for row in rows[:2]] == [[5, None, 0.25], [10, 20, None]]
    assert "test/confusion_matrix_table.nrows" in rows[2]

    summary: dict[str, Any] = {}
    for record in records["summary"]:
        summary |= record["update"]
    assert summary["val_macro_f1"] == 0.5
    assert summary["test/accuracy"] == 0.75
    assert summary["test/balanced_accuracy"] == pytest.approx(2.5 / 3)
    assert math.isfinite(summary["test/log_loss"])

    (model,) = [artifact for artifact in records["artifact"] if artifact["type"] == "model"]
    (content,) = model["manifest"]["contents"]
    assert model["name"] == "model-ab12cd34"
    assert (content["path"], content["local_path"]) == ("Resnet_fineTuning.pth", str(folder / "Resnet_fineTuning.pth"))
    assert [ended["exit_code"] for ended in records["exit"]] == [0]

    files = [file for place in (folder, home) for file in place.rglob("*") if file.is_file()]
    assert len(files) > 5
    assert [file for file in files if KEY.encode() in file.read_bytes()] == []


_KILLED = """
import os, signal, sys, time
from pathlib import Path
from overlay.config import Tracking, Train
from overlay.storage.path import StoragePath
from overlay.tracking import WandbRun
from tests.overlay.test_tracking import EPOCHS

folder = StoragePath.of(sys.argv[1])
run = WandbRun(Train(dataset="ds", out=str(folder), tracking=Tracking(mode="offline")), "offline", "ab12cd34", folder)
run.log(EPOCHS[:1])
time.sleep(3)
run.log(EPOCHS)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.fault
def test_what_was_logged_just_before_a_kill_is_logged_again_where_it_was_lost(tmp_path: Path) -> None:
    killed = subprocess.Popen([sys.executable, "-c", _KILLED, tmp_path])
    core: list[psutil.Process] = []
    while not core:
        core = [each for each in psutil.Process(killed.pid).children(recursive=True) if each.name() == "wandb-core"]
        time.sleep(0.1)
    assert killed.wait() == -signal.SIGKILL
    assert psutil.wait_procs(core, timeout=60)[1] == []
    before = [record["item"]["epoch"] for record in inspect(tmp_path).get("history", [])]
    assert before in ([1], [1, 2])

    later = Tracking(mode="offline")
    run = WandbRun(
        Train(dataset="ds", out=str(tmp_path), tracking=later), "offline", "ab12cd34", StoragePath.of(tmp_path)
    )
    run.log(EPOCHS)
    run.close(failed=False)
    wandb.teardown()
    runs = sorted((tmp_path / "wandb").glob("offline-run-*-ab12cd34"))
    rows = [record["item"]["epoch"] for each in runs for record in read(each).get("history", [])]
    assert len(runs) == 2
    assert rows == [1, 2]


def test_what_wandb_refuses_is_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise wandb.errors.CommError("Run initialization has timed out\nafter 90.0 sec.")

    monkeypatch.setattr(wandb, "init", refuse)
    message = (
        "^Weights & Biases: Run initialization has timed out after 90.0 sec.; mend that, or go on with "
        "--tracking.mode offline or disabled$"
    )
    with pytest.raises(WorkError, match=message):
        WandbRun(Train(dataset="ds", out=str(tmp_path)), "online", "ab12cd34", StoragePath.of(tmp_path))
