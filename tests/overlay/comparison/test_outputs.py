import json
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from overlay.comparison.folder import ComparisonFolder, ComparisonRequest, open_comparison
from overlay.comparison.outputs import COMPARISON_SCHEMA, write_comparison
from overlay.comparison.results import RESULTS_SCHEMA, ComparedModel
from overlay.config import Compare
from overlay.dataset.prepared import PreparedDataset
from overlay.duplicates.near_duplicates import DUPLICATES_SCHEMA
from overlay.errors import RequestError, WorkError
from overlay.models.model_file import ModelCard, save_model_file
from overlay.models.network import create_network
from overlay.storage.atomic import write_atomically
from overlay.storage.parquet import open_parquet
from overlay.storage.path import StoragePath
from tests.overlay.evaluation.conftest import CLASSES, new_dataset, png

__all__ = ["new_dataset"]

REQUEST = ComparisonRequest(
    "f" * 64, list(CLASSES), {"a": {"sha256": "1"}, "b": {"sha256": "2"}}, "a", "accuracy", "benign", [], None
)
IMAGES = 12


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("model") / "m.pth"
    card = ModelCard("shufflenet_v2_x0_5", CLASSES, 32, "squash", (0.5,) * 3, (0.5,) * 3, None, "", "", "")
    save_model_file(file, OrderedDict(create_network("shufflenet_v2_x0_5", 2).state_dict()), card)
    return file


@pytest.fixture
def dataset(new_dataset: Callable[..., PreparedDataset]) -> PreparedDataset:
    rows = [
        {"id": f"i{row:02}", "label": CLASSES[row % 2], "split": "test", "bytes": png(10 * row)}
        for row in range(IMAGES)
    ]
    made = new_dataset(rows)
    conflict = {"id_a": "i00", "id_b": "i01", "label_a": "benign", "label_b": "normal"}
    pq.write_table(pa.Table.from_pylist([conflict], schema=DUPLICATES_SCHEMA), Path(made.path) / "duplicates.parquet")
    counts = {name: {"train": 0, "val": 0, "test": IMAGES // 2} for name in CLASSES}
    return replace(made, card=replace(made.card, classes=list(CLASSES), counts=counts))


def compared(name: str, wrong: set[int], folder: Path, model: Path, dataset: PreparedDataset) -> ComparedModel:
    """A finished model that answers with 0.9, and wrongly the images of these numbers."""
    labels = np.arange(IMAGES) % 2
    predicted = np.array([1 - label if row in wrong else label for row, label in enumerate(labels)])
    table = {
        "id": [f"i{row:02}" for row in range(IMAGES)],
        "true_label": np.array(CLASSES)[labels],
        "label": np.array(CLASSES)[predicted],
        "prob_benign": np.where(predicted == 0, 0.9, 0.1),
        "prob_normal": np.where(predicted == 1, 0.9, 0.1),
    }
    folder.mkdir(parents=True)
    pq.write_table(pa.table(table), folder / "predictions.parquet")
    return ComparedModel(
        name, None, None, StoragePath.of(model), dataset, StoragePath.of(folder / "predictions.parquet")
    )


def test_the_files_say_the_same(dataset: PreparedDataset, model_file: Path, tmp_path: Path) -> None:
    folder = ComparisonFolder(StoragePath.of(tmp_path / "out"))
    folder.begin(REQUEST)
    assert not folder.finished
    models = [
        compared("a", {0, 1, 2, 3, 4, 5, 6}, tmp_path / "a", model_file, dataset),
        compared("b", {0}, tmp_path / "b", model_file, dataset),
    ]
    outcome = write_comparison(folder, REQUEST, dataset, models)

    results = pq.read_table(tmp_path / "out" / "results.parquet")
    assert results.schema.equals(RESULTS_SCHEMA)
    assert results["candidate"].to_pylist() == ["a", "b"]
    assert results["accuracy"].to_pylist() == pytest.approx([5 / 12, 11 / 12])
    assert results["n_test"].to_pylist() == [IMAGES, IMAGES]
    assert results["parameters"][0].as_py() == sum(
        p.numel() for p in create_network("shufflenet_v2_x0_5", 2).parameters()
    )
    assert results["status"].to_pylist() == ["done", "done"]

    differences = pq.read_table(tmp_path / "out" / "comparison.parquet")
    assert differences.schema.equals(COMPARISON_SCHEMA)
    accuracy = differences.filter(pa.compute.equal(differences["metric"], "accuracy")).to_pylist()
    assert len(accuracy) == 1
    assert accuracy[0]["difference"] == pytest.approx(0.5)
    assert accuracy[0]["p_models"] == pytest.approx(1 / 32)  # 6 images that b alone answers right, 0 that a does
    assert (accuracy[0]["only_candidate_right"], accuracy[0]["only_reference_right"]) == (6, 0)

    predictions = pq.read_table(tmp_path / "out" / "predictions.parquet")
    assert len(predictions) == 2 * IMAGES
    assert predictions.column_names == [
        *("id", "group", "fold", "true_label", "candidate", "seed", "label"),
        *("prob_benign", "prob_normal"),
    ]

    doubts = pq.read_table(tmp_path / "out" / "label_doubts.parquet").to_pylist()
    assert [(row["id"], row["suggested"], row["near_duplicate_label"]) for row in doubts] == [
        ("i00", "normal", "normal")
    ]

    record = json.loads(folder.record_file.read_bytes())
    assert record["finished"]
    assert record["candidates"]["b"]["accuracy"]["value"] == pytest.approx(11 / 12)
    assert record["verdict"] == outcome.verdict
    assert "b is better than a in accuracy as trained models, by 0.500" in outcome.verdict
    assert folder.finished
    assert (folder.path / "comparison.png").read_bytes().startswith(b"\x89PNG")

    page = (folder.path / "report.html").read_bytes().decode()
    assert outcome.verdict in page
    assert "Images that every candidate misses: 1" in page
    assert "near-duplicate is normal" in page


def test_a_failed_training_is_a_row_and_its_candidate_in_no_test(
    dataset: PreparedDataset, model_file: Path, tmp_path: Path
) -> None:
    folder = ComparisonFolder(StoragePath.of(tmp_path / "out"))
    folder.begin(REQUEST)
    models = [compared(name, {0}, tmp_path / name, model_file, dataset) for name in "ab"]
    failed = replace(models[0], candidate="<c>", seed=0, fold=2, error="the loss is no number")
    outcome = write_comparison(folder, REQUEST, dataset, [*models, failed])
    assert outcome.failed == ["<c>, seed 0, fold 2: the loss is no number"]
    rows = pq.read_table(tmp_path / "out" / "results.parquet").to_pylist()
    assert (rows[2]["status"], rows[2]["error"], rows[2]["accuracy"]) == ("failed", "the loss is no number", None)
    assert set(pq.read_table(tmp_path / "out" / "comparison.parquet")["candidate"].to_pylist()) == {"b"}
    assert "&lt;c&gt;, seed 0, fold 2" in (folder.path / "report.html").read_bytes().decode()
    assert not folder.finished


def test_without_the_reference_nothing_is_compared(dataset: PreparedDataset, model_file: Path, tmp_path: Path) -> None:
    folder = ComparisonFolder(StoragePath.of(tmp_path / "out"))
    folder.begin(REQUEST)
    models = [compared(name, {0}, tmp_path / name, model_file, dataset) for name in "ab"]
    with pytest.raises(
        WorkError, match="nothing can be compared, since trainings failed: a, seed None, fold None: died"
    ):
        write_comparison(folder, REQUEST, dataset, [replace(models[0], error="died"), models[1]])
    assert len(pq.read_table(tmp_path / "out" / "results.parquet")) == 2


def test_a_folder_is_resumed_by_the_same_request_only(tmp_path: Path) -> None:
    config = Compare("data", str(tmp_path / "out"), models=["a", "b"])
    open_comparison(config, REQUEST).begin(REQUEST)
    assert open_comparison(config, REQUEST).path == StoragePath.of(tmp_path / "out")
    with pytest.raises(RequestError, match="was begun with metric accuracy, not macro_f1; give the same options"):
        open_comparison(config, replace(REQUEST, metric="macro_f1"))
    (tmp_path / "out" / "compare.json").write_text("{}")
    with pytest.raises(RequestError, match="is damaged, or no record of a comparison"):
        open_comparison(config, REQUEST)


def test_where_a_training_runs_may_differ(tmp_path: Path) -> None:
    config = Compare("data", str(tmp_path / "out"), archs="x,y")
    first = replace(REQUEST, candidates={"x": {"train.workers": 1, "train.epochs": 3}})
    open_comparison(config, first).begin(first)
    open_comparison(config, replace(first, candidates={"x": {"train.workers": 2, "train.epochs": 3}}))
    with pytest.raises(RequestError, match=r"was begun with candidates.x.train.epochs 3, not 4"):
        open_comparison(config, replace(first, candidates={"x": {"train.workers": 1, "train.epochs": 4}}))


def test_a_folder_with_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "note.txt").touch()
    config = Compare("data", str(tmp_path), models=["a", "b"])
    with pytest.raises(RequestError, match=r"holds something else \(note.txt\)"):
        open_comparison(config, REQUEST)
    with pytest.raises(RequestError, match="is a file; name a folder"):
        open_comparison(replace(config, out=str(tmp_path / "note.txt")), REQUEST)


def test_a_comparison_in_a_bucket(
    dataset: PreparedDataset, model_file: Path, tmp_path: Path, new_bucket: Callable[[], str]
) -> None:
    bucket = StoragePath.of(new_bucket())
    config = Compare("data", str(bucket / "out"), models=["a", "b"])
    folder = open_comparison(config, REQUEST)
    folder.begin(REQUEST)
    models = []
    for name, wrong in (("a", {0, 1, 2, 3, 4, 5, 6}), ("b", {0})):
        local = compared(name, wrong, tmp_path / name, model_file, dataset)
        path, predictions = bucket / name / "m.pth", folder.evaluation(name) / "predictions.parquet"
        for place, source in ((path, local.path), (predictions, local.predictions)):
            with write_atomically(place) as temporary:
                temporary.write_bytes(source.read_bytes())
        models.append(replace(local, path=path, predictions=predictions))
    outcome = write_comparison(folder, REQUEST, dataset, models)
    assert "b is better than a in accuracy as trained models, by 0.500" in outcome.verdict
    assert open_comparison(config, REQUEST).finished
    names = ["compare.json", "comparison.parquet", "comparison.png", "evaluations", "label_doubts.parquet"]
    assert folder.path.children() == [*names, "predictions.parquet", "report.html", "results.parquet"]
    with open_parquet(folder.path / "results.parquet") as file:
        assert file.read()["run"].to_pylist() == [str(model.path) for model in models]
    with pytest.raises(RequestError, match="was begun with metric accuracy, not macro_f1; give the same options"):
        open_comparison(config, replace(REQUEST, metric="macro_f1"))
    with pytest.raises(RequestError, match=r"holds something else \(predictions.parquet\)"):
        open_comparison(replace(config, out=str(folder.evaluation("a"))), REQUEST)
