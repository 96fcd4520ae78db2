import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from overlay.config import Compare, Input, Loop, Model, Prepare, Split, Tracking
from overlay.dataset.prepared import PreparedDataset
from overlay.errors import RequestError
from overlay.models.model_file import load_model_file, save_model_file
from pipelines import compare
from tests.pipelines.conftest import Trained


@pytest.fixture(scope="session")
def folded(ray_session: None, phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    """36 images in three folds; not to be written to."""
    from pipelines import prepare

    out = tmp_path_factory.mktemp("folded") / "dataset"
    return prepare.run(Prepare(sources=[str(phantoms)], out=str(out), split=Split(folds=3)))


def request_of(dataset: PreparedDataset, out: Path) -> Compare:
    return Compare(
        dataset.path,
        str(out),
        input=Input(size=32),
        model=Model(weights="none"),
        train=Loop(epochs=2, batch_size=8, precision="fp32"),
        tracking=Tracking(mode="disabled"),
        archs="resnet18,mobilenet_v3_small",
    )


def test_a_dataset_without_folds_is_refused(dataset: PreparedDataset, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"has no folds; prepare it with --split.folds 5"):
        compare.run(request_of(dataset, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_wrong_requests_are_refused_and_write_nothing(folded: PreparedDataset, tmp_path: Path) -> None:
    good = request_of(folded, tmp_path / "out")
    for change, message in [
        ({"reference": "resnet101"}, "reference is resnet101, which is not among the candidates: resnet18, mobilenet"),
        ({"positive": "cyst"}, "positive is cyst, and the classes are benign, malignant, normal"),
        ({"archs": "resnet18,resnet19"}, "candidate resnet19: model.arch is 'resnet19'"),
        ({"train": replace(good.train, workers=64, batch_size=128)}, "train.workers is 64, but the cluster has"),
        (
            {"train": replace(good.train, batch_size=15, accumulate=7)},
            "candidate resnet18: batches of .* images leave 1 workers fewer than 2 at a time",
        ),
    ]:
        with pytest.raises(RequestError, match=message):
            compare.run(replace(good, **change))  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_a_candidate_on_other_images_is_refused(
    folded: PreparedDataset, dataset: PreparedDataset, tmp_path: Path
) -> None:
    file = tmp_path / "candidates.yaml"
    file.write_text(f"a: {{}}\nb: {{dataset: {dataset.path}}}\n")
    config = replace(request_of(folded, tmp_path / "out"), archs=None, candidates=str(file))
    with pytest.raises(RequestError, match=r"candidate b: .* differ in the fold of "):
        compare.run(config)


def test_a_model_given_twice_and_one_of_other_classes_are_refused(trained: Trained, tmp_path: Path) -> None:
    run, copy = trained.folder, tmp_path / "copy.pth"
    copy.write_bytes((run / "Resnet_fineTuning.pth").read_bytes())
    config = Compare(trained.dataset.path, str(tmp_path / "out"), models=[str(run), str(copy)])
    with pytest.raises(RequestError, match="copy and run are the same model"):
        compare.run(config)
    file = load_model_file(run)
    foreign = replace(file.card, classes=("cyst", "malignant", "normal"))
    save_model_file(copy, file.state, foreign, file.hashes)
    with pytest.raises(RequestError, match="copy knows the classes cyst, malignant, normal, and run benign, malignant"):
        compare.run(config)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_finished_models_are_compared_on_the_test_split(trained: Trained, tmp_path: Path) -> None:
    file = load_model_file(trained.folder)
    other = tmp_path / "other.pth"
    file.state["fc.bias"] += torch.tensor([0.0, 0.0, 3.0])
    save_model_file(other, file.state, file.card, file.hashes)
    config = Compare(trained.dataset.path, str(tmp_path / "out"), models=[str(trained.folder), str(other)])
    compare.run(config)
    rows = pq.read_table(tmp_path / "out" / "comparison.parquet").to_pylist()
    own = pq.read_table(trained.folder / "evaluation" / "predictions.parquet")
    right = np.mean([a == b for a, b in zip(own["label"].to_pylist(), own["true_label"].to_pylist(), strict=True)])
    results = pq.read_table(tmp_path / "out" / "results.parquet").to_pylist()
    assert [row["candidate"] for row in results] == ["run", "other"]
    assert results[0]["accuracy"] == pytest.approx(right)
    accuracy = next(row for row in rows if row["metric"] == "accuracy")
    assert accuracy["difference"] == pytest.approx(results[1]["accuracy"] - results[0]["accuracy"])
    assert accuracy["p_method"] is None


@pytest.mark.slow
@pytest.mark.fault
def test_killed_and_given_again_it_trains_nothing_twice(folded: PreparedDataset, tmp_path: Path) -> None:
    compare.run(request_of(folded, tmp_path / "undisturbed"))
    words = [sys.executable, "-m", "overlay", "compare", folded.path, "--out", str(tmp_path / "killed")]
    words += ["--archs=resnet18,mobilenet_v3_small", "--input.size=32", "--model.weights=none", "--train.epochs=2"]
    words += ["--train.batch_size=8", "--train.precision=fp32", "--tracking.mode=disabled"]
    killed = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    finished = tmp_path / "killed" / "runs" / "mobilenet_v3_small" / "seed-0" / "fold-0" / "evaluation" / "metrics.json"
    while not finished.exists():
        assert killed.poll() is None
        time.sleep(0.2)
    killed.kill()
    killed.wait()
    before = finished.stat().st_mtime_ns
    assert subprocess.run(words, check=False, capture_output=True).returncode == 0
    assert finished.stat().st_mtime_ns == before
    for name in ("predictions", "comparison", "label_doubts"):
        tables = [pq.read_table(tmp_path / side / f"{name}.parquet") for side in ("undisturbed", "killed")]
        assert tables[0].equals(tables[1]), name
    again = subprocess.run(words, check=False, capture_output=True, text=True)
    assert "holds this comparison already, finished; nothing to do" in again.stdout
