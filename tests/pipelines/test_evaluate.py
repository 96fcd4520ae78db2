import csv
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from overlay.config import Evaluate, InferenceOptions, Prepare, Split
from overlay.dataset.prepared import PreparedDataset
from overlay.engines.factory import prepare_engine
from overlay.errors import RequestError
from overlay.evaluation.audit_rows import viewed_images
from overlay.evaluation.mask_audit import plan_audit
from overlay.evaluation.subject import EvaluationSubject
from overlay.models.model_file import load_model_file
from pipelines import evaluate, prepare
from pipelines import train as train_job
from pipelines.inference.split_scores import LabelledScores, score_in_process, score_on_ray
from tests.pipelines.conftest import Trained


def test_the_files_agree(trained: Trained) -> None:
    folder = trained.folder / "evaluation"
    rows = pq.read_table(folder / "predictions.parquet").to_pylist()
    assert len(rows) == 6
    assert [row["id"] for row in rows] == sorted(row["id"] for row in rows)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["accuracy"] == sum(row["label"] == row["true_label"] for row in rows) / 6
    classes = metrics["classes"]
    confusion = np.zeros((3, 3), int)
    for row in rows:
        confusion[classes.index(row["true_label"]), classes.index(row["label"])] += 1
        assert row["confidence"] == max(row[f"prob_{name}"] for name in classes)
    assert metrics["confusion"] == confusion.tolist()
    with (folder / "classification_report.csv").open() as file:
        support = {row["class"]: row["support"] for row in csv.DictReader(file)}
    assert [int(support[name]) for name in classes] == confusion.sum(axis=1).tolist()
    page = (folder / "report.html").read_text()
    assert trained.dataset.card.fingerprint in page
    assert "Lesion blanked" in page
    assert set(metrics["audit"]["views"]) == {"untinted", "mask", "blanked"}
    assert metrics["audit"]["images"] == 6
    assert metrics["audit"]["overlay"]["value"] == metrics["accuracy"]
    # A view of an image without a lesion is the image itself, but for the mask on grey.
    normal = sum(row["true_label"] == "normal" for row in rows)
    assert all(metrics["audit"]["views"][view]["kept"] >= normal / 6 for view in ("untinted", "blanked"))


@pytest.mark.slow
def test_ray_gives_the_same_answers_as_this_process(trained: Trained) -> None:
    subject = EvaluationSubject(load_model_file(trained.folder), trained.dataset, "test")
    audit = plan_audit(trained.dataset, "test")
    assert audit is not None
    plan = prepare_engine(subject.model, precision="fp32")
    reading = viewed_images(trained.dataset, "test", subject.model.card.input, 4, audit)

    def answers(score: Callable[..., Iterator[LabelledScores]]) -> dict[tuple[str, str], list[float]]:
        return {
            (name, view): row.tolist()
            for block in score(plan, reading, InferenceOptions("cpu", "fp32", 4))
            for name, view, row in zip(block["id"], block["view"], block["probabilities"], strict=True)
        }

    here = answers(score_in_process)
    assert len(here) == 6 + 3 * len(audit.ids)
    assert answers(score_on_ray) == here


@pytest.mark.slow
def test_another_split(trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = Evaluate(
        model=str(trained.folder / "Resnet_fineTuning.pth"),
        dataset=trained.dataset.path,
        out=str(tmp_path / "out"),
        split="val",
        precision="fp32",
        subgroups=f"{tmp_path / 'patients.csv'}:age",
    )
    ids = pq.read_table(trained.dataset.data_files(), columns=["id"])["id"].to_pylist()
    (tmp_path / "patients.csv").write_text(
        "id,age\n" + "".join(f"{name},{20 + 40 * (i % 2)}\n" for i, name in enumerate(ids))
    )
    evaluate.run(config)
    best = min(pq.read_table(trained.folder / "history.parquet").to_pylist(), key=lambda row: float(row["val_loss"]))
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["accuracy"] == best["val_accuracy"]
    (ages, *_) = metrics["subgroups"]
    assert ages["column"] == "age"
    assert {group["name"] for group in ages["subgroups"]} == {"20", "60"}
    assert sum(group["images"] for group in ages["subgroups"]) == metrics["images"]
    estimates = {(row["metric"], row["class"]): row for row in metrics["estimates"]}
    assert estimates["log_loss_uncalibrated", None]["value"] == pytest.approx(best["val_loss"], abs=1e-5)
    assert metrics["log_loss"] <= best["val_loss"] + 1e-5
    # The card's threshold was chosen on these images, so it keeps its promise here.
    assert estimates["sensitivity", "malignant"]["value"] >= 0.95
    assert f"accuracy {best['val_accuracy']:.3f}" in capsys.readouterr().out
    with pytest.raises(RequestError, match="holds something else"):
        evaluate.run(replace(config, out=str(trained.folder)))


@pytest.mark.slow
def test_a_foreign_set_of_fewer_classes_whose_images_the_model_has_seen(
    trained: Trained, phantoms: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "clinic"
    for name in ("benign", "malignant"):
        shutil.copytree(phantoms / name, source / name)
    other = Prepare(sources=[str(source)], out=str(tmp_path / "dataset"), split=Split(only="test"))
    foreign = prepare.run(other)
    assert foreign.card.counts == {name: {"train": 0, "val": 0, "test": 12} for name in ("benign", "malignant")}

    def hashes(dataset: PreparedDataset, splits: tuple[str, ...]) -> list[int]:
        rows = pq.read_table(Path(dataset.path) / "data").to_pylist()
        return [int(row["phash"], 16) for row in rows if row["split"] in splits]

    def near(text: int, known: list[int]) -> bool:
        return any((text ^ each).bit_count() <= 40 for each in known)

    train, val = (hashes(trained.dataset, (split,)) for split in ("train", "val"))
    asked = hashes(foreign, ("test",))
    in_train = sum(near(text, train) for text in asked)
    in_val = sum(near(text, val) and not near(text, train) for text in asked)
    config = Evaluate(model=str(trained.folder), dataset=foreign.path, out=str(tmp_path / "out"), precision="fp32")
    counts = (
        rf"has seen {in_train + in_val} of the 24 test images \({in_train} near-.*, {in_val} of validation images\)"
    )
    with pytest.raises(RequestError, match=counts):
        evaluate.run(config)
    assert not (tmp_path / "out").exists()
    evaluate.run(replace(config, allow_seen=True))
    told = capsys.readouterr().out
    assert f"CAUTION: The model has seen {in_train + in_val} of these 24 images" in told
    assert "the dataset has no normal, which the model may answer all the same" in told
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert (metrics["missing_classes"], metrics["seen"]["train"], metrics["seen"]["val"]) == (
        ["normal"],
        in_train,
        in_val,
    )
    assert metrics["mask_only"] is None
    rows = pq.read_table(tmp_path / "out" / "predictions.parquet")
    assert (set(rows["split"].to_pylist()), rows["fold"].null_count) == ({"test"}, 24)
    assert set(rows["group"].to_pylist()) == set(pq.read_table(Path(foreign.path) / "data")["group"].to_pylist())
    with pytest.raises(RequestError, match="has no image in the split train; training needs all three"):
        train_job.run(replace(trained.config, dataset=foreign.path, out=str(tmp_path / "run"), fold=None))


@pytest.mark.parametrize(
    ("subgroups", "message"),
    [
        ("patients.csv:sex", "subgroups patients.csv has no column sex; it has id, age"),
        ("patients.csv:age", "subgroups patients.csv names none of the images"),
    ],
)
def test_a_table_of_subgroups_that_does_not_fit_is_refused_before_any_work(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, subgroups: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "patients.csv").write_text("id,age\nelsewhere.png,30\n")
    config = Evaluate(str(trained.folder), trained.dataset.path, str(tmp_path / "out"), subgroups=subgroups)
    with pytest.raises(RequestError, match=message):
        evaluate.run(config)
    assert not (tmp_path / "out").exists()


def test_subgroups_are_columns_of_a_table() -> None:
    with pytest.raises(RequestError, match=r"subgroups is 'age'; give it as FILE.csv:column"):
        Evaluate("run", "dataset", "out", subgroups="age")
