"""The probe that finds a disk which the nodes of a cluster don't share."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from shutil import copytree

import pytest

from overlay.cli.parser import to_words
from overlay.config import Input, Loop, Model, Train
from overlay.dataset.prepared import PreparedDataset
from overlay.storage.path import StoragePath
from pipelines.runtime.shared_disk import answer_probe, check_shared_disk, size_here
from tests.pipelines.private_nodes import ENVIRONMENT, private_node
from tests.pipelines.test_nodes import cluster


def test_a_probe_is_answered_by_a_file(tmp_path: Path) -> None:
    folder = StoragePath.of(tmp_path)
    assert answer_probe(folder, "token", "node") == "a file written here is not there"
    (tmp_path / "driver").write_text("another")
    assert answer_probe(folder, "token", "node") == "a file written here has another content there"
    assert not (tmp_path / "node").exists()
    (tmp_path / "driver").write_text("token")
    assert answer_probe(folder, "token", "node") is None
    assert (tmp_path / "node").read_text() == "token"


def test_the_size_of_what_is_read(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("1234")
    assert [size_here(StoragePath.of(tmp_path / name)) for name in ("x", ".", "y")] == [4, 0, None]


def test_a_cluster_of_one_node_needs_no_probe(ray_session: None, tmp_path: Path) -> None:
    place = StoragePath.of(tmp_path / "x" / "y")
    check_shared_disk(read=[("dataset", place)], written=[("out", place)])
    assert list(tmp_path.iterdir()) == []


def run(config: Train, address: str) -> "subprocess.CompletedProcess[str]":
    words = [sys.executable, "-m", "overlay", *to_words(config)]
    environment = os.environ | ENVIRONMENT | {"RAY_ADDRESS": address}
    return subprocess.run(words, env=environment, capture_output=True, text=True, check=False, timeout=300)


@pytest.mark.nodes
@pytest.mark.slow
def test_a_disk_that_is_not_shared_is_found_before_anything_is_written(
    dataset: PreparedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    disk = tmp_path / "disk"
    disk.mkdir()
    config = Train(
        dataset=dataset.path,
        out=str(disk / "run"),
        input=Input(size=32),
        model=Model(arch="resnet18", weights="none"),
        train=Loop(epochs=1, batch_size=8, workers=2, precision="fp32"),
    )
    with cluster(head_cpus=3) as nodes, private_node(nodes, disk):
        done = run(config, nodes.address)
        assert done.returncode == 2, done.stderr
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"overlay train: out {disk}/run is not shared with the node ")
        assert line.endswith(
            ": a file written here is not there; give a path on a disk that all nodes share, or in a bucket "
            "(s3://bucket/...)"
        )
        assert list(disk.iterdir()) == []

        copytree(dataset.path, disk / "dataset")
        done = run(replace(config, dataset=str(disk / "dataset"), out=str(tmp_path / "run")), nodes.address)
        assert done.returncode == 2, done.stderr
        assert f"overlay train: dataset {disk}/dataset/dataset.json is not there on the node " in done.stderr
        assert not (tmp_path / "run").exists()
