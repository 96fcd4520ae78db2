import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from overlay.config import Evaluate
from overlay.errors import RequestError
from pipelines import evaluate
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
    assert "mask alone reaches" in page


@pytest.mark.slow
def test_another_split(trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = Evaluate(
        model=str(trained.folder / "Resnet_fineTuning.pth"),
        dataset=trained.dataset.path,
        out=str(tmp_path / "out"),
        split="val",
        precision="fp32",
    )
    evaluate.run(config)
    best = min(pq.read_table(trained.folder / "history.parquet").to_pylist(), key=lambda row: float(row["val_loss"]))
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["accuracy"] == best["val_accuracy"]
    estimates = {(row["metric"], row["class"]): row for row in metrics["estimates"]}
    assert estimates["log_loss_uncalibrated", None]["value"] == pytest.approx(best["val_loss"], abs=1e-5)
    assert metrics["log_loss"] <= best["val_loss"] + 1e-5
    # The card's threshold was chosen on these images, so it keeps its promise here.
    assert estimates["sensitivity", "malignant"]["value"] >= 0.95
    assert f"accuracy {best['val_accuracy']:.3f}" in capsys.readouterr().out
    with pytest.raises(RequestError, match="holds something else"):
        evaluate.run(replace(config, out=str(trained.folder)))
