"""Whole runs with nothing but a bucket, killed and resumed: the same weights as on a disk."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch

from overlay import load_model
from overlay.cli.parser import to_words
from overlay.cli.verbs import Config
from overlay.config import Compare, EarlyStopping, Evaluate, Export, Input, Loop, Model, Predict, Prepare, Split, Train
from overlay.evaluation.output_files import EVALUATION_FILES
from overlay.models.model_file import MODEL_FILE, load_model_file
from overlay.storage.atomic import write_text_atomically
from overlay.storage.parquet import open_parquet
from overlay.storage.path import StoragePath
from overlay.training import checkpoint
from overlay.training.history import read_history
from pipelines import evaluate, export, predict
from tests.pipelines.private_nodes import ENVIRONMENT, private_node
from tests.pipelines.test_nodes import cluster
from tests.pipelines.test_train import kill_session

pytestmark = [pytest.mark.nodes, pytest.mark.slow]


@pytest.fixture
def bucket(new_bucket: Callable[[], str], monkeypatch: pytest.MonkeyPatch) -> StoragePath:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    return StoragePath.of(new_bucket())


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """The folder that all commands run in."""
    folder = tmp_path / "here"
    folder.mkdir()
    return folder


def training(bucket: StoragePath, workers: int) -> Train:
    return Train(
        dataset=str(bucket / "dataset"),
        out=str(bucket / "run"),
        input=Input(size=32),
        model=Model(arch="shufflenet_v2_x0_5", weights="none", freeze_norm=True),
        early_stopping=EarlyStopping(patience=6),
        train=Loop(epochs=6, batch_size=4 * workers, workers=workers, precision="fp32", checkpoint_steps=2),
    )


def begin(config: Config, folder: Path, address: str) -> "subprocess.Popen[str]":
    """Start a command as a driver of the cluster."""
    words = [sys.executable, "-m", "overlay", *to_words(config)]
    environment = os.environ | {"RAY_ADDRESS": address, "PYTHONPATH": str(Path(__file__).parents[2])}
    out = subprocess.PIPE
    return subprocess.Popen(
        words, cwd=folder, env=environment, start_new_session=True, stdout=out, stderr=subprocess.STDOUT, text=True
    )


def run(config: Config, folder: Path, address: str) -> str:
    """Run a command to its end, and return what it said."""
    command = begin(config, folder, address)
    said, _ = command.communicate(timeout=600)
    assert command.returncode == 0, said
    return said


def wait_for_step(step: int, bucket: StoragePath, driver: "subprocess.Popen[str]") -> None:
    wait_until(lambda: newest_step(bucket) >= step, driver)


def wait_until(condition: Callable[[], bool], driver: "subprocess.Popen[str]") -> None:
    while not condition():
        assert driver.poll() is None, driver.communicate()
        time.sleep(0.1)


def wait_for_end_of_workers() -> None:
    """Wait until Ray has ended the workers of a killed command; until then they may save another checkpoint."""
    while any(
        "ray::RayTrainWorker" in " ".join(each.info["cmdline"] or []) for each in psutil.process_iter(["cmdline"])
    ):
        time.sleep(0.1)


def newest_step(bucket: StoragePath) -> int:
    return checkpoint.checkpoint_step(checkpoint.newest_checkpoint(bucket / "run/checkpoints"))


def assert_same_weights(ours: StoragePath, theirs: StoragePath) -> None:
    states = [load_model_file(run).state for run in (ours, theirs)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[1])


def test_a_whole_run_in_a_bucket(bucket: StoragePath, here: Path, phantoms: Path, tmp_path: Path) -> None:
    config, made = training(bucket, workers=1), bucket / "run"
    on_disk = replace(config, dataset=str(tmp_path / "dataset"), out=str(tmp_path / "run"))
    with cluster(head_cpus=3) as nodes:
        for each in (config, on_disk):
            run(Prepare([str(phantoms)], each.dataset), here, nodes.address)
        first = begin(config, here, nodes.address)
        wait_for_step(8, bucket, first)
        kill_session(first.pid)
        first.communicate()
        assert first.returncode == -signal.SIGKILL
        wait_for_end_of_workers()
        progress = checkpoint.read_progress(made / "checkpoints")
        said = run(config, here, nodes.address)
        assert f"going on after epoch {len(progress.history)} of 6, at step {progress.step} of 36" in said
        run(on_disk, here, nodes.address)
        dry = replace(config, out=str(bucket / "dry"), train=replace(config.train, dry_run=1))
        assert "dry run: 1 steps of 4 images" in run(dry, here, nodes.address)
        assert (bucket / "dry").files() == []
        assert not [name for name in bucket.children() if name.startswith(".overlay-")]
    assert_same_weights(made, StoragePath.of(on_disk.out))
    names = ["checkpoints", "config.yaml", "curves.png", "evaluation", "history.parquet", "overlay.log", "run.json"]
    assert made.children() == sorted([MODEL_FILE, *names])
    assert [epoch.epoch for epoch in read_history(made / "history.parquet")] == [1, 2, 3, 4, 5, 6]
    assert read_history(made / "history.parquet")[: len(progress.history)] == progress.history
    assert len([name for name in (made / "checkpoints").children() if name.endswith(".json")]) == 1

    evaluate.run(Evaluate(str(made), config.dataset, str(bucket / "evaluation")))
    assert set((bucket / "evaluation").children()) == set((made / "evaluation").children()) == set(EVALUATION_FILES)
    predict.run(Predict(str(made), [config.dataset], str(bucket / "predictions")))
    with open_parquet(bucket / "predictions" / "predictions" / "part-000000.parquet") as file:
        rows = file.read()
    model = load_model_file(made)
    assert (len(rows), set(rows["status"].to_pylist()), set(rows["model"].to_pylist())) == (36, {"ok"}, {model.sha256})
    export.run(Export(str(made), "safetensors"))
    assert load_model(str(made / "Resnet_fineTuning.safetensors")).card == model.card
    assert list(here.iterdir()) == []  # nothing but the bucket


def test_a_comparison_of_trainings_in_a_bucket(bucket: StoragePath, here: Path, phantoms: Path) -> None:
    """The command is killed in the middle; given again, it keeps what is finished, and goes on."""
    write_text_atomically(bucket / "candidates.yaml", "plain: {}\ndropped: {model.dropout: 0.5}\n")
    usual, out = training(bucket, workers=1), bucket / "comparison"
    config = Compare(
        dataset=usual.dataset,
        out=str(out),
        candidates=str(bucket / "candidates.yaml"),
        input=usual.input,
        model=usual.model,
        train=replace(usual.train, epochs=2),
    )
    with cluster(head_cpus=3) as nodes:
        run(Prepare([str(phantoms)], usual.dataset, split=Split(folds=3)), here, nodes.address)
        first = begin(config, here, nodes.address)
        begun, second = (out / "runs/plain/seed-0" / f"fold-{fold}" / "history.parquet" for fold in (0, 1))
        wait_until(second.is_file, first)
        kill_session(first.pid)
        first.communicate()
        done = read_history(begun)
        run(config, here, nodes.address)
    assert read_history(begun) == done  # with its seconds, so it was not trained again
    with open_parquet(out / "results.parquet") as file:
        rows = file.read().select(["candidate", "fold"]).to_pylist()
    assert rows == [{"candidate": name, "fold": fold} for fold in range(3) for name in ("plain", "dropped")]
    assert list(here.iterdir()) == []


def test_two_nodes_with_disks_of_their_own_train_in_a_bucket(
    bucket: StoragePath, here: Path, phantoms: Path, tmp_path: Path
) -> None:
    """A node is killed and then the driver: the weights are those of an undisturbed run of two workers on one disk."""
    config = training(bucket, workers=2)
    on_disk = replace(config, out=str(tmp_path / "run"))
    with cluster(head_cpus=3) as nodes:
        run(Prepare([str(phantoms)], config.dataset), here, nodes.address)
        with private_node(nodes, here) as kill_node:
            first = begin(config, here, nodes.address)
            wait_for_step(4, bucket, first)
            kill_node()
            wait_for_step(newest_step(bucket) + 2, bucket, first)  # Ray Train resumes on the node that is left
            kill_session(first.pid)
            first.communicate()
        step = newest_step(bucket)
        with private_node(nodes, here):
            assert f"at step {step} of 18" in run(config, here, nodes.address)
            run(on_disk, here, nodes.address)
    assert_same_weights(bucket / "run", StoragePath.of(on_disk.out))
    assert list(here.iterdir()) == []
