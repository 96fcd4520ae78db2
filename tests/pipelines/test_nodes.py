"""Training over several nodes, which are raylets of this machine, and what becomes of it when one of them is lost."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import torchvision

from overlay.cli.parser import to_words
from overlay.config import Augment, ClusterOptions, EarlyStopping, Input, Loop, Model, Optimizer, Predict, Train
from overlay.dataset.prepared import PreparedDataset
from overlay.storage.path import StoragePath
from overlay.training import checkpoint

pytestmark = [pytest.mark.nodes, pytest.mark.slow]

# The tests' own local session goes without the watcher, which finds out that a node is drained.
ENVIRONMENT = {"RAY_AUTH_MODE": "disabled", "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "1"}


@contextmanager
def cluster(head_cpus: int) -> Iterator[Any]:
    """Start a head; more nodes are added to it."""
    from ray.cluster_utils import Cluster

    started = Cluster(initialize_head=True, head_node_args={"num_cpus": head_cpus, "include_dashboard": False})
    try:
        yield started
    finally:
        started.shutdown()  # type: ignore[no-untyped-call]


@pytest.fixture
def config(dataset: PreparedDataset, tmp_path: Path) -> Train:
    return Train(
        dataset=dataset.path,
        out=str(tmp_path / "run"),
        input=Input(size=32),
        model=Model(arch="resnet18", weights="none", freeze_norm=True),
        train=Loop(epochs=8, batch_size=8, workers=2, precision="fp32", checkpoint_steps=2),
    )


def begin(config: Train | Predict, address: str, log: Path) -> "subprocess.Popen[bytes]":
    """Start a job as a driver of the cluster."""
    words = [sys.executable, "-m", "overlay", *to_words(config)]
    environment = os.environ | ENVIRONMENT | {"RAY_ADDRESS": address}
    with log.open("wb") as opened:
        return subprocess.Popen(words, env=environment, stdout=opened, stderr=subprocess.STDOUT)


def wait_until(condition: Any, driver: "subprocess.Popen[bytes]", log: Path) -> None:  # noqa: ANN401
    deadline = time.monotonic() + 300
    while not condition():
        assert driver.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)


def losses(run: Path) -> dict[int, float]:
    rows = pq.read_table(run / "history.parquet").to_pylist()
    assert [row["epoch"] for row in rows] == list(range(1, len(rows) + 1))
    return {row["epoch"]: row["train_loss"] for row in rows}


@pytest.mark.parametrize("workers", [2, "1..2"])
def test_a_node_is_lost_in_mid_epoch(
    workers: int | str, config: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    run, log = Path(config.out), tmp_path / "log"
    config = replace(config, train=replace(config.train, workers=workers))
    with cluster(head_cpus=3) as nodes:
        lost = nodes.add_node(num_cpus=3)
        driver = begin(config, nodes.address, log)
        wait_until(
            lambda: checkpoint.checkpoint_step(checkpoint.newest_checkpoint(StoragePath.of(run / "checkpoints"))) >= 5,
            driver,
            log,
        )
        nodes.remove_node(lost, allow_graceful=False)
        if workers == 2:
            nodes.add_node(num_cpus=3)
        assert driver.wait(timeout=300) == 0, log.read_text()
    assert losses(run) == pytest.approx(undisturbed_losses(config, tmp_path), abs=1e-3)


def undisturbed_losses(config: Train, folder: Path, epochs: int = 8) -> dict[int, float]:
    """Return the losses of the same training by one worker on this machine."""
    loop = replace(config.train, workers=1, epochs=epochs)
    undisturbed = replace(config, out=str(folder / "undisturbed"), train=loop)
    words = [sys.executable, "-m", "overlay", *to_words(undisturbed)]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    return losses(Path(undisturbed.out))


def test_a_cluster_without_nodes_is_waited_for(config: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    log = tmp_path / "log"
    with cluster(head_cpus=0) as nodes:
        refused = begin(replace(config, cluster=ClusterOptions(wait=0)), nodes.address, log)
        assert refused.wait(timeout=120) == 2
        assert "the cluster has no room for 2 CPUs: 0 of 2 CPUs there; ask for less" in log.read_text()
        assert not Path(config.out).exists()
        given_up = begin(replace(config, cluster=ClusterOptions(wait=8)), nodes.address, log)
        assert given_up.wait(timeout=120) == 1
        assert "gave up after waiting 8 s for 2 CPUs: 0 of 2 CPUs there; the same command goes on" in log.read_text()

        driver = begin(config, nodes.address, log)
        wait_until(lambda: "waiting for 2 CPUs: 0 of 2 CPUs there, 3 s" in log.read_text(), driver, log)
        nodes.add_node(num_cpus=2)
        nodes.add_node(num_cpus=2)
        assert driver.wait(timeout=300) == 0, log.read_text()
    assert list(losses(Path(config.out))) == list(range(1, 9))


def test_what_is_missing_is_named_and_waited_for(
    config: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    run, log = Path(config.out), tmp_path / "log"
    config = replace(config, cluster=ClusterOptions(worker_cpus=1))
    with cluster(head_cpus=1) as nodes:
        lost = nodes.add_node(num_cpus=3)
        driver = begin(config, nodes.address, log)
        wait_until(lambda: checkpoint.newest_checkpoint(StoragePath.of(run / "checkpoints")) is not None, driver, log)
        nodes.remove_node(lost, allow_graceful=False)
        named = "waiting: training needs 2 CPUs, and the cluster has 1; training goes on as soon as it is there"
        wait_until(lambda: named in log.read_text(), driver, log)
        nodes.add_node(num_cpus=3)
        assert driver.wait(timeout=300) == 0, log.read_text()
    assert list(losses(run)) == list(range(1, 9))


def test_what_other_jobs_hold_is_named_and_waited_for(
    config: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    log, release = tmp_path / "log", tmp_path / "release"
    hold = f"""
import pathlib, ray, time
ray.init(log_to_driver=False)
hold = ray.remote(num_cpus=2)(lambda: time.sleep(600)).remote()
while ray.available_resources()["CPU"] > 1:
    time.sleep(0.1)
print("held", flush=True)
while not pathlib.Path({str(release)!r}).exists():
    time.sleep(0.1)
"""
    with cluster(head_cpus=3) as nodes:
        environment = os.environ | {"RAY_ADDRESS": nodes.address}
        with subprocess.Popen([sys.executable, "-c", hold], env=environment, stdout=subprocess.PIPE) as other:
            assert other.stdout is not None
            assert other.stdout.readline() == b"held\n"
            driver = begin(config, nodes.address, log)
            named = "waiting for 3 CPUs: 1 of 3 CPUs free of other jobs, "
            wait_until(lambda: named in log.read_text(), driver, log)
            release.touch()
            assert other.wait(timeout=60) == 0
        assert driver.wait(timeout=300) == 0, log.read_text()
    assert list(losses(Path(config.out))) == list(range(1, 9))


def test_a_run_grows_with_a_node_and_saves_when_it_is_drained(
    config: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    loop = replace(config.train, workers="1..2", epochs=2000, checkpoint_steps=10**6)
    backbone = tmp_path / "resnet18.pth"
    torch.save(torchvision.models.resnet18().state_dict(), backbone)
    config = replace(
        config,
        train=loop,
        # The head alone learns, little by little: sums of other order make no difference, and what is lost does.
        model=replace(config.model, weights=str(backbone), freeze="backbone"),
        optimizer=Optimizer(name="sgd", lr=1e-3, schedule="constant", warmup=0),
        early_stopping=EarlyStopping(patience=10**6),
        augment=Augment(rotation=0, flip=0, zoom=0, brightness=0, contrast=0),
    )
    run, log = Path(config.out), tmp_path / "log"
    with cluster(head_cpus=3) as nodes:
        driver = begin(config, nodes.address, log)
        wait_until(lambda: "workers: 1, of 2 at most" in log.read_text(), driver, log)
        came = nodes.add_node(num_cpus=3)
        wait_until(lambda: "workers: 2, of 2 at most" in log.read_text(), driver, log)
        grown = len(losses(run))
        ray = str(Path(sys.executable).with_name("ray"))
        drain = [ray, "drain-node", "--address", nodes.address, "--node-id", came.node_id]
        drain += ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "test"]
        subprocess.run([*drain, "--deadline-remaining-seconds", "600"], check=True)
        wait_until(lambda: "a node is about to go: saved after step " in log.read_text(), driver, log)
        nodes.remove_node(came, allow_graceful=False)
        wait_until(lambda: log.read_text().count("workers: 1, of 2 at most") == 2, driver, log)
        shrunk = len(losses(run))
        wait_until(lambda: len(losses(run)) > shrunk + 2, driver, log)
        driver.send_signal(signal.SIGTERM)
        assert driver.wait(timeout=120) == 143
    saved = re.search(r"saved after step (\d+)$", log.read_text(), re.MULTILINE)
    assert saved is not None
    of_epochs = losses(run)
    assert 0 < grown < shrunk
    assert of_epochs == pytest.approx(undisturbed_losses(config, tmp_path, len(of_epochs)), abs=1e-3)
