import csv
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from overlay.errors import RequestError, WorkError
from overlay.evaluation import output_files
from overlay.evaluation.output_files import (
    EVALUATION_FILES,
    Extras,
    ScoredSplit,
    check_evaluation_folder,
    write_evaluation,
)
from overlay.evaluation.report_data import Inference, SeenImages
from overlay.evaluation.subgroups import SubgroupColumn
from overlay.evaluation.subject import EvaluationSubject
from overlay.storage.atomic import write_text_atomically
from overlay.storage.filenames import LOCK_NAME, LOG_FILE
from overlay.storage.path import StoragePath
from overlay.training.history import Epoch, write_history


def predictions(benign: float = 0.25) -> ScoredSplit:
    """Four images; the third, which is benign, is classified wrongly."""
    table = pa.table(
        {
            "id": [f"test{i}" for i in range(4)],
            "true_label": ["benign", "normal", "benign", "normal"],
            "label": ["benign", "normal", "normal", "normal"],
            "confidence": [0.9, 0.8, 0.75, 0.6],
            "prob_benign": [0.9, 0.2, benign, 0.4],
            "prob_normal": [0.1, 0.8, 0.75, 0.6],
            "group": ["p1", "p2", "p1", "p3"],
        }
    )
    return ScoredSplit(table, Inference("openvino on cpu", "bf16", flips=False))


def test_all_files_say_the_same(subject: EvaluationSubject, tmp_path: Path) -> None:
    out = tmp_path / "new" / "evaluation"
    result = write_evaluation(
        subject,
        predictions(),
        StoragePath.of(out),
        Extras(SeenImages(4, 1, 0, 40), (SubgroupColumn("age", ["a", "a", "b", "b"]),)),
    )
    assert (result.labels, result.predicted) == ([0, 1, 0, 1], [0, 1, 1, 1])
    assert {file.name for file in out.iterdir()} == set(EVALUATION_FILES)
    assert pq.read_table(out / "predictions.parquet") == predictions().predictions
    metrics = json.loads((out / "metrics.json").read_text())
    assert (metrics["accuracy"], metrics["confusion"], metrics["groups"]) == (0.75, [[1, 1], [0, 2]], 3)
    assert (metrics["model_sha256"], metrics["dataset_fingerprint"]) == ("ab" * 32, "cd" * 32)
    assert (metrics["split"], metrics["fold"], metrics["flips"]) == ("test", None, False)
    assert (metrics["engine"], metrics["precision"]) == ("openvino on cpu", "bf16")
    assert metrics["seen"] == {"images": 4, "train": 1, "val": 0, "distance": 40}
    caution = "The model has seen 1 of these 4 images (1 near-duplicates of training images, 0 of validation images)."
    assert metrics["cautions"] == [caution]
    assert metrics["mask_only"]["p"] == 1.0
    assert result.lines()[0] == f"CAUTION: {caution}"
    interval = f"{result.metrics.accuracy.low:.3f} to {result.metrics.accuracy.high:.3f}"
    assert result.lines()[1].startswith(f"test: accuracy 0.750 ({interval}), macro-F1")
    with (out / "classification_report.csv").open(newline="") as file:
        assert [row["support"] for row in csv.DictReader(file)] == ["2", "2", "4", "4", "4"]
    assert (out / "confusion_matrix.png").read_bytes().startswith(b"\x89PNG")
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "<h1>m</h1>" in page
    assert "resnet18, evaluated on 4 images in 3 groups: the test split of dataset" in page
    assert "test2" in page
    assert caution in page
    assert interval in page


def test_the_page_of_a_run_has_its_name_and_its_training(subject: EvaluationSubject, tmp_path: Path) -> None:
    run = tmp_path / "my-run"
    run.mkdir()
    (run / "config.yaml").write_text("early_stopping:\n  metric: val_loss\n")
    write_history(
        [Epoch(1, 0.5, 0.5, 0.5, 0.5, 0.5, 1e-3, 10, 1, 1, 5, None, 0)], StoragePath.of(run / "history.parquet")
    )
    in_run = replace(subject, model=replace(subject.model, path=str(run / "m.pth")))
    result = write_evaluation(in_run, predictions(), StoragePath.of(run / "evaluation"), Extras(None))
    assert (result.report.title, result.report.training is None) == ("my-run", False)
    page = (run / "evaluation" / "report.html").read_text(encoding="utf-8")
    assert "<h1>my-run</h1>" in page
    assert "Losses over the epochs" in page


def test_files_are_written_atomically_and_metrics_last(
    subject: EvaluationSubject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed at any file, an evaluation leaves no metrics.json, not even that of an earlier one."""
    written: list[str] = []
    # What takes time and is none of this: forests, and the network of Grad-CAM.
    monkeypatch.setattr(output_files, "compare_with_masks", lambda *_, **__: None)
    monkeypatch.setattr(output_files, "read_gallery", lambda *_: ())

    @contextmanager
    def stopping(place: StoragePath) -> Iterator[Path]:
        assert not (tmp_path / "metrics.json").exists()
        if len(written) == stop:
            raise OSError("no space left on device")
        written.append(place.name)
        yield Path(place.text)

    monkeypatch.setattr(output_files, "write_atomically", stopping)
    for stop in range(len(EVALUATION_FILES)):
        written.clear()
        (tmp_path / "metrics.json").write_text("{}")
        with pytest.raises(OSError, match="no space left"):
            write_evaluation(subject, predictions(), StoragePath.of(tmp_path), Extras(None))
        assert tuple(written) == EVALUATION_FILES[:stop]
    stop = -1
    written.clear()
    write_evaluation(subject, predictions(), StoragePath.of(tmp_path), Extras(None))
    assert tuple(written) == EVALUATION_FILES


def test_probabilities_that_are_no_numbers_write_nothing(subject: EvaluationSubject, tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text("{}")
    with pytest.raises(WorkError, match="not numbers for 1 of 4 images"):
        write_evaluation(subject, predictions(float("nan")), StoragePath.of(tmp_path), Extras(None))
    assert (tmp_path / "metrics.json").read_text() == "{}"


def test_a_folder_of_an_evaluation_can_be_used_again(subject: EvaluationSubject, tmp_path: Path) -> None:
    check_evaluation_folder(StoragePath.of(tmp_path / "new"), "new")
    out = tmp_path / "out"
    out.mkdir()
    (out / ".report.html.0123.tmp").touch()  # as a process leaves it that was killed
    (out / LOCK_NAME).touch()
    (out / LOG_FILE).touch()  # of the command
    check_evaluation_folder(StoragePath.of(out), "out")
    write_evaluation(subject, predictions(), StoragePath.of(out), Extras(None))
    assert {file.name for file in out.iterdir()} == {*EVALUATION_FILES, LOCK_NAME, LOG_FILE}
    check_evaluation_folder(StoragePath.of(out), "out")


@pytest.mark.parametrize("name", ["thesis.pdf", ".thesis.pdf.0123.tmp", ".report.html"])
def test_a_folder_with_other_files_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(RequestError) as refused:
        check_evaluation_folder(StoragePath.of(tmp_path), "../out")
    assert str(refused.value) == f"--out ../out holds something else ({name}); choose an empty folder"


def test_an_evaluation_in_a_bucket(subject: EvaluationSubject, tmp_path: Path, new_bucket: Callable[[], str]) -> None:
    run = StoragePath.of(new_bucket()) / "my-run"
    write_text_atomically(run / "config.yaml", "early_stopping:\n  metric: val_loss\n")
    write_history([Epoch(1, 0.5, 0.5, 0.5, 0.5, 0.5, 1e-3, 10, 1, 1, 5, None, 0)], run / "history.parquet")
    in_run = replace(subject, model=replace(subject.model, path=str(run / "m.pth")))
    out = run / "evaluation"
    write_text_atomically(out / "thesis.pdf", "")
    with pytest.raises(RequestError, match=r"holds something else \(thesis.pdf\)"):
        check_evaluation_folder(out, str(out))
    (out / "thesis.pdf").remove()
    for _ in range(2):
        check_evaluation_folder(out, str(out))
        result = write_evaluation(in_run, predictions(), out, Extras(None))
        assert (result.report.title, result.report.training is None) == ("my-run", False)
        assert set(out.children()) == set(EVALUATION_FILES)
    write_evaluation(in_run, predictions(), StoragePath.of(tmp_path / "local"), Extras(None))
    for name in ("metrics.json", "classification_report.csv", "confusion_matrix.png"):
        assert (out / name).read_bytes() == (tmp_path / "local" / name).read_bytes()
