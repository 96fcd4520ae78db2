import json
import os
import signal
import subprocess
import sys
import time
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from overlay import model
from overlay.config import Loop, Model, Train
from overlay.dataset import PreparedDataset
from overlay.errors import RequestError
from overlay.history import Epoch
from overlay.pretrained import IMAGENET_MEAN, IMAGENET_STD
from pipelines import checkpoint, ingest, train
from pipelines.train_loop import validate
from tests.pipelines.conftest import Trained


def epochs(folder: Path) -> list[Epoch]:
    return [Epoch(**row) for row in pq.read_table(folder / "history.parquet").to_pylist()]


def test_leaves_the_files_of_the_contract(trained: Trained) -> None:
    there = {str(path.relative_to(trained.folder)) for path in trained.folder.rglob("*")}
    assert there >= {
        "config.yaml",
        "history.parquet",
        "curves.png",
        "Resnet_fineTuning.pth",
        "evaluation/metrics.json",
        "evaluation/classification_report.csv",
        "evaluation/confusion_matrix.png",
        "evaluation/predictions.parquet",
        "evaluation/report.html",
    }
    assert [epoch.epoch for epoch in epochs(trained.folder)] == [1, 2]
    with Image.open(trained.folder / "curves.png") as picture:
        assert picture.width > 1000


def test_the_model_file_says_all_that_using_it_needs(trained: Trained) -> None:
    card = model.load(trained.folder).card
    assert (card.arch, card.classes, card.size, card.resize) == (
        "resnet18",
        ("benign", "malignant", "normal"),
        32,
        "squash",
    )
    assert (card.mean, card.std, card.weights) == (IMAGENET_MEAN, IMAGENET_STD, "none")
    assert card.dataset == trained.dataset.card.fingerprint
    assert card.overlay == trained.dataset.card.request.overlay


def test_the_reported_validation_is_that_of_the_checkpoint(trained: Trained) -> None:
    validation = ingest.decoded(trained.dataset, "val", trained.config.input)
    last = checkpoint.newest(trained.folder / "checkpoints")
    assert last is not None
    file = model.load(trained.folder)
    network = model.network(replace(file, state=OrderedDict(checkpoint.load(last, "last.pt")["learner"]["network"])))
    network = network.to(memory_format=torch.channels_last)
    loss, confusion = validate(network, validation, file.card, torch.autocast("cpu", enabled=False), 0, 1)
    reported = epochs(trained.folder)[-1]
    assert reported.val_loss == pytest.approx(loss, abs=1e-6)
    assert reported.val_accuracy == np.trace(confusion) / 6


def test_a_finished_run_is_left_alone(trained: Trained, capsys: pytest.CaptureFixture[str]) -> None:
    before = (trained.folder / "Resnet_fineTuning.pth").stat()
    train.run(trained.config)
    assert "finished; nothing to do" in capsys.readouterr().out
    assert (trained.folder / "Resnet_fineTuning.pth").stat() == before


def test_an_offline_run_of_wandb_holds_everything_once(trained: Trained) -> None:
    (run,) = (trained.folder / "wandb").glob("offline-run-*/run-*.wandb")
    inspected = subprocess.run(
        [sys.executable, "-m", "wandb", "leet", "inspect", "--json", run], capture_output=True, text=True, check=True
    )
    records = [json.loads(line) for line in inspected.stdout.splitlines()]
    (started,) = [record["run"] for record in records if record["type"] == "run"]
    assert started["config"]["update"]["train"]["workers"] == 2
    rows = [record["history"]["item"] for record in records if record["type"] == "history"]
    assert [row["epoch"] for row in rows] == [1, 2]
    assert [row["val_loss"] for row in rows] == [epoch.val_loss for epoch in epochs(trained.folder)]
    assert any("test/confusion_matrix_table" in name for name in rows[-1])
    models = [r["artifact"] for r in records if r["type"] == "artifact" and r["artifact"]["type"] == "model"]
    assert [[file["path"] for file in artifact["manifest"]["contents"]] for artifact in models] == [
        ["Resnet_fineTuning.pth"]
    ]
    summary = {k: v for r in records if r["type"] == "summary" for k, v in r["summary"]["update"].items()}
    metrics = json.loads((trained.folder / "evaluation" / "metrics.json").read_text())
    assert summary["test/accuracy"] == metrics["accuracy"]


def test_only_as_many_workers_as_there_are_cpus(trained: Trained, tmp_path: Path) -> None:
    config = replace(trained.config, out=str(tmp_path / "run"), train=Loop(workers=64, batch_size=128))
    with pytest.raises(RequestError, match=r"^train.workers is 64, but the cluster has 2 CPUs; ask for fewer$"):
        train.run(config)
    assert not (tmp_path / "run").exists()


@pytest.mark.fault
@pytest.mark.slow
def test_killed_in_the_middle_it_goes_on(dataset: PreparedDataset, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = [sys.executable, "-m", "overlay", "train", dataset.path, "--out", str(out), "--model.arch", "resnet18"]
    words += ["--model.weights", "none", "--input.size", "32", "--train.epochs", "4", "--train.batch_size", "8"]
    words += ["--early_stopping.patience", "4"]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    first = subprocess.Popen(words, env=environment, start_new_session=True, stdout=subprocess.DEVNULL)
    while not any((out / "checkpoints").glob("step-*")):
        assert first.poll() is None
        time.sleep(0.1)
    kill_session(first.pid)
    first.wait()
    begun = checkpoint.history(checkpoint.newest(out / "checkpoints"))
    assert 1 <= len(begun) < 4

    second = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=300)
    assert second.returncode == 0, second.stderr
    assert f"going on after epoch {len(begun)} of 4" in second.stdout
    assert [epoch.epoch for epoch in epochs(out)] == [1, 2, 3, 4]
    assert epochs(out)[: len(begun)] == begun
    assert (out / "Resnet_fineTuning.pth").exists()


def kill_session(leader: int) -> None:
    """Kill a command and all that it started, Ray's own processes among them, without a warning."""
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and os.getsid(int(process.name)) == leader:
            os.kill(int(process.name), signal.SIGKILL)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dataset": "nowhere"}, "source nowhere is not there; check the path"),
        ({"model": Model(arch="resnet19")}, "model.arch is 'resnet19'; choose a classification network"),
        ({"model": Model(arch="resnet18", weights="nowhere.pth")}, "no weights at nowhere.pth; check the path"),
    ],
)
def test_bad_requests_write_nothing(
    change: dict[str, Any], message: str, ray_session: None, dataset: PreparedDataset, tmp_path: Path
) -> None:
    config = Train(dataset=dataset.path, out=str(tmp_path / "run"), model=Model(arch="resnet18", weights="none"))
    with pytest.raises(RequestError, match=message) as refused:
        train.run(replace(config, **change))
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "run").exists()
