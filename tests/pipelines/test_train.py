import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import ray
import torch
from PIL import Image
from ray.train import Result

from cluster import session
from overlay.config import Loop, Model, Tracking, Train
from overlay.dataset.prepared import PreparedDataset
from overlay.errors import RequestError, WorkError
from overlay.models import model_file
from overlay.models.network import IMAGENET_MEAN, IMAGENET_STD
from overlay.storage.path import StoragePath
from overlay.training import checkpoint
from overlay.training.history import Epoch
from overlay.training.sampler import SINGLE_WORKER
from pipelines import train
from pipelines.runtime.background import BackgroundCall
from pipelines.training import image_source, shard_source, trainer
from pipelines.training.batch_stream import StreamResources, start_stream_process
from pipelines.training.validation import ValidationTask, plan_validation, validate_epoch, validation_batches
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
    for epoch in epochs(trained.folder):
        assert epoch.images_per_core_second == epoch.images_per_second / session.resources().cpus
        assert epoch.images_per_gpu_second is None
        assert epoch.device_wait_share is not None
        assert 0 <= epoch.device_wait_share < 1
    with Image.open(trained.folder / "curves.png") as picture:
        assert picture.width > 1000


def test_a_dataset_that_cannot_be_decoded_ends_the_run_and_its_workers(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The workers start meanwhile, and wait for the images."""
    damaged = tmp_path / "dataset"
    shutil.copytree(trained.dataset.path, damaged)
    for shard in damaged.glob("data/*.parquet"):
        rows = pq.read_table(shard)
        images = [image | {"bytes": image["bytes"][:100]} for image in rows["image"].to_pylist()]
        column = rows.schema.get_field_index("image")
        pq.write_table(rows.set_column(column, rows.schema.field("image"), [images]), shard)
    calls = list[BackgroundCall[Result]]()

    def call(function: Callable[[], Result]) -> BackgroundCall[Result]:
        calls.append(BackgroundCall(function))
        return calls[-1]

    monkeypatch.setattr(trainer, "BackgroundCall", call)
    config = replace(trained.config, dataset=str(damaged), out=str(tmp_path / "run"), tracking=Tracking("disabled"))
    with pytest.raises(WorkError, match=r"the dataset's image .+ can't be decoded"):
        train.run(config)
    calls[0].wait()  # Ray Train ends without an error


@pytest.mark.slow
def test_a_training_that_cannot_be_evaluated_is_saved_and_goes_on(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lack_nodes(*_: object) -> None:
        raise RequestError("the cluster has no room")

    config = replace(trained.config, out=str(tmp_path / "run"), tracking=Tracking("disabled"))
    monkeypatch.setattr(train, "await_actors", lack_nodes)
    with pytest.raises(WorkError, match=r"^the cluster has no room; the training is saved, and the same command eval"):
        train.run(config)
    monkeypatch.undo()
    monkeypatch.setattr(train, "run_trainer", lack_nodes)  # not trained again
    train.run(config)
    assert (tmp_path / "run" / "evaluation" / "metrics.json").is_file()


def test_the_model_file_says_all_that_using_it_needs(trained: Trained) -> None:
    card = model_file.load_model_file(trained.folder).card
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
    source = image_source.decode_split(trained.dataset, "val", trained.config.input, as_stored=True)
    last = checkpoint.newest_checkpoint(StoragePath.of(trained.folder / "checkpoints"))
    assert last is not None
    file = model_file.load_model_file(trained.folder)
    network = model_file.build_network(
        replace(file, state=OrderedDict(checkpoint.load_checkpoint(last).learner["network"]))
    )
    network = network.to(memory_format=torch.channels_last)
    resources = StreamResources(start_stream_process(), 1, 2**26)
    batches = validation_batches(ray.put(plan_validation(source, 32)), SINGLE_WORKER, resources)
    task = ValidationTask(batches, file.card, torch.autocast("cpu", enabled=False))
    validated = validate_epoch(network, task, SINGLE_WORKER)
    assert validated is not None
    loss, confusion = validated
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
    *rows, last = [record["history"]["item"] for record in records if record["type"] == "history"]
    assert [row["epoch"] for row in rows] == [1, 2]
    assert [row["val_loss"] for row in rows] == [epoch.val_loss for epoch in epochs(trained.folder)]
    assert any("test/confusion_matrix_table" in name for name in last)
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


@pytest.mark.slow
def test_a_dry_run_tries_everything_and_keeps_nothing(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = replace(trained.config, out=str(tmp_path / "run"), train=replace(trained.config.train, dry_run=2))
    train.run(config)
    told = capsys.readouterr().out
    assert re.search(r"dry run: 2 steps of 8 images, a validation and a checkpoint in \d+ s", told)
    assert re.search(r"a worker took \d\.\d GiB of memory", told)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_images_beyond_memory_are_read_from_the_shards(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shard_source, "STORE_SHARE", 0)
    once = Loop(epochs=1, batch_size=8, precision="fp32", shuffle_window=16)
    config = replace(trained.config, out=str(tmp_path / "run"), train=once, tracking=Tracking(mode="disabled"))
    train.run(config)
    said = capsys.readouterr().out
    assert "24 images are too many for the cluster's memory; they are read anew each epoch" in said
    assert "6 validation images are too many for the cluster's memory; they are read anew after each epoch" in said
    assert [epoch.epoch for epoch in epochs(tmp_path / "run")] == [1]
    refusal = r"^train\.balanced needs the images in memory, and those of .* of input\.size 32 are too many"
    with pytest.raises(RequestError, match=refusal):
        train.run(replace(config, out=str(tmp_path / "other"), train=replace(once, balanced=True)))


@pytest.mark.parametrize(
    ("loop", "message"),
    [
        (Loop(precision="fp16"), r"^train\.precision is fp16, which needs a GPU; choose bf16 or fp32$"),
        (Loop(sync_batch_norm=True), r"^train\.sync_batch_norm needs GPUs; --model\.freeze_norm does without"),
        (Loop(workers="1..2"), r"^train\.workers is 1\.\.2, but without GPUs a run can only grow over nodes of 3 CPUs"),
    ],
)
def test_what_a_cpu_cannot_do_is_refused(loop: Loop, message: str, trained: Trained, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=message):
        train.run(replace(trained.config, out=str(tmp_path / "run"), train=loop))
    assert not (tmp_path / "run").exists()


def command(dataset: PreparedDataset, out: Path) -> list[str]:
    words = ["train", dataset.path, "--out", str(out), "--model.arch", "resnet18", "--model.weights", "none"]
    words += ["--input.size", "32", "--train.epochs", "12", "--train.batch_size", "4", "--train.checkpoint_steps", "1"]
    return [sys.executable, "-m", "overlay", *words, "--early_stopping.patience", "12", "--train.precision", "fp32"]


@pytest.mark.fault
@pytest.mark.slow
def test_asked_to_stop_it_saves_and_leaves_and_killed_it_goes_on(dataset: PreparedDataset, tmp_path: Path) -> None:
    out = tmp_path / "run"
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    words = command(dataset, out)
    first = subprocess.Popen(words, env=environment, start_new_session=True, stderr=subprocess.PIPE, text=True)
    wait_for_step(1, out, first)
    first.send_signal(signal.SIGTERM)
    _, told = first.communicate(timeout=120)
    step = checkpoint.checkpoint_step(checkpoint.newest_checkpoint(StoragePath.of(out / "checkpoints")))
    assert told.endswith(
        f"overlay train: interrupted by SIGTERM; saved after step {step} of 72; the same command goes on\n"
    )
    assert first.returncode == 143

    second = subprocess.Popen(words, env=environment, start_new_session=True, stdout=subprocess.DEVNULL)
    wait_for_step(step + 2, out, second)
    kill_session(second.pid)
    second.wait()
    progress = checkpoint.read_progress(StoragePath.of(out / "checkpoints"))
    begun = progress.history

    third = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=300)
    assert third.returncode == 0, third.stderr
    assert f"going on after epoch {len(begun)} of 12, at step {progress.step} of 72" in third.stdout
    assert [epoch.epoch for epoch in epochs(out)] == list(range(1, 13))
    assert epochs(out)[: len(begun)] == begun

    undisturbed = tmp_path / "undisturbed"
    subprocess.run(command(dataset, undisturbed), env=environment, check=True, stdout=subprocess.DEVNULL)
    weights = [torch.load(run / "Resnet_fineTuning.pth") for run in (out, undisturbed)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def wait_for_step(step: int, out: Path, driver: "subprocess.Popen[Any]") -> None:
    while checkpoint.checkpoint_step(checkpoint.newest_checkpoint(StoragePath.of(out / "checkpoints"))) < step:
        assert driver.poll() is None
        time.sleep(0.02)


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
