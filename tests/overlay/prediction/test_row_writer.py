import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from overlay.config import Limits, Predict
from overlay.engines.base import ScoredBatch
from overlay.prediction import row_writer
from overlay.prediction.cost import OccupiedHardware
from overlay.prediction.output_folder import PredictionFolder, PredictionRequest
from overlay.prediction.row_writer import PredictionWriter
from overlay.prediction.schema import PredictionColumns
from overlay.prediction.summary import StageTimes, summarise_predictions
from overlay.sources.manifest import Manifest, ManifestListing, write_manifest
from overlay.sources.resolve import resolve_inputs
from overlay.storage.path import StoragePath

CLASSES = ("benign", "malignant")
LAYOUT = PredictionColumns(CLASSES, "m1")
NETWORK = "file that can't be read: No such file or directory"


@pytest.fixture
def begun(tmp_path: Path) -> tuple[PredictionFolder, ManifestListing, Manifest]:
    """Ten inputs in parts of four, of two classes in turn."""
    for number in range(10):
        file = tmp_path / "images" / CLASSES[number % 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    (tmp_path / "listed").mkdir()
    inputs = resolve_inputs([str(tmp_path / "images")], CLASSES, Limits())
    listing = write_manifest(inputs, tmp_path / "listed", 4, lambda _: None)
    folder = PredictionFolder(StoragePath.of(tmp_path / "out"))
    config = Predict("m.pth", [str(tmp_path / "images")], str(tmp_path / "out"), part_rows=4)
    return folder, listing, folder.begin(PredictionRequest.create(config, "m1", listing), listing, anew=True)


def block(*rows: int, reason: str = "") -> ScoredBatch:
    """Score rows: the probability of malignant is a twentieth of the row's number."""
    chance = np.array(rows, np.float32) / 20
    probabilities = np.stack([1 - chance, chance], axis=1).astype(np.float32)
    if reason:
        probabilities[:] = np.nan
    seconds = np.zeros(len(rows))
    return {
        "row": np.array(rows),
        "reason": np.array([reason] * len(rows)),
        "error_kind": np.array([("unreadable" if reason == NETWORK else "damaged") if reason else ""] * len(rows)),
        "probabilities": probabilities,
        "precision": np.array(["fp32"] * len(rows)),
        "bytes": np.zeros(len(rows), np.int64),
        "seconds_read": seconds,
        "seconds_decode": seconds,
        "seconds_forward": seconds,
    }


def rows(folder: PredictionFolder) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table((folder.path / "predictions").text).to_pylist()
    return found


def test_parts_are_committed_once_their_rows_are_there(
    begun: tuple[PredictionFolder, ManifestListing, Manifest],
) -> None:
    folder, _, manifest = begun
    gathered = PredictionWriter(folder, manifest, LAYOUT, retry_errors=False)
    gathered.add(block(9, 1, 0, 3))
    assert folder.committed() == set()
    gathered.add(block(2, 8))
    assert folder.committed() == {0, 2}
    gathered.add(block(4, 5, 5, 6, 9, reason="empty file"))  # 9 is there already
    gathered.add(block(7))
    assert gathered.done == 10
    ids = manifest.read_part(0, ["id"])["id"].to_pylist()
    assert [row["id"] for row in rows(folder)][:4] == ids
    assert [row["prob_malignant"] for row in rows(folder)][:4] == pytest.approx([0, 0.05, 0.1, 0.15])
    assert [row["error"] for row in rows(folder)] == [*[None] * 4, *["empty file"] * 3, *[None] * 3]
    assert {row["model"] for row in rows(folder)} == {"m1"}


def test_a_killed_run_goes_on_with_what_it_saved(
    begun: tuple[PredictionFolder, ManifestListing, Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_writer, "SAVE_SECONDS", 0.0)
    folder, listing, manifest = begun
    first = PredictionWriter(folder, manifest, LAYOUT, retry_errors=False)
    first.add(block(0, 1, 5))
    first.add(block(2, 3))
    again = PredictionWriter(folder, manifest, LAYOUT, retry_errors=False)
    assert (again.done, folder.committed()) == (5, {0})
    left = again.remaining_units(listing.units)
    asked = {
        manifest.rows_of_group(group)[position]
        for unit in left
        for group in unit.groups
        for position in unit.positions.get(group, range(len(manifest.rows_of_group(group))))
    }
    assert asked == {4, 6, 7, 8, 9}
    again.add(block(4, 6, 7, 8, 9))
    assert again.remaining_units(listing.units) == []
    assert list(folder.saved_rows()) == []
    assert [row["prob_malignant"] for row in rows(folder)] == pytest.approx([number / 20 for number in range(10)])


def test_what_could_not_be_read_is_tried_again(begun: tuple[PredictionFolder, ManifestListing, Manifest]) -> None:
    folder, listing, manifest = begun
    first = PredictionWriter(folder, manifest, LAYOUT, retry_errors=False)
    first.add(block(0, 1, 2, 4, 5, 6, 7, 8))
    first.add(block(3, reason=NETWORK))
    first.add(block(9, reason="empty file"))
    summary = summarise_predictions(folder, manifest, CLASSES, overlay_missing=0)
    assert (summary.unreadable, summary.errors) == (1, {"file that can't be read": 1, "empty file": 1})
    assert "1 could not be read, which may pass; --retry_errors tries them again" in summary.lines(StageTimes())
    assert PredictionWriter(folder, manifest, LAYOUT, retry_errors=False).done == 10
    again = PredictionWriter(folder, manifest, LAYOUT, retry_errors=True)
    assert (again.done, folder.committed()) == (9, {0, 1, 2})
    ((group, positions),) = [
        (group, unit.positions[group]) for unit in again.remaining_units(listing.units) for group in unit.groups
    ]
    assert [manifest.rows_of_group(group)[position] for position in positions] == [3]
    again.add(block(3))
    assert [row["error"] for row in rows(folder)] == [*[None] * 9, "empty file"]
    assert [row["prob_malignant"] for row in rows(folder)][:4] == pytest.approx([0, 0.05, 0.1, 0.15])


def test_columns_that_were_asked_for() -> None:
    layout = PredictionColumns(("a", "b", "c"), "m1", top_k=2, entropy=True, uncertain_below=0.6, flag=("c", 0.25))
    probabilities = np.array([[0.25, 0.5, 0.25], [np.nan] * 3, [0, 1, 0]], np.float32)
    embedding = np.arange(6, dtype=np.float32).reshape(3, 2)
    scored = block(0, 1, 2)
    scored["reason"] = np.array(["", "broken", ""])
    scored |= {"probabilities": probabilities, "embedding": embedding}
    table = layout.tabulate(scored).to_pydict()
    assert table["top_labels"] == [["b", "a"], None, ["b", "a"]]
    assert table["top_probabilities"] == [[0.5, 0.25], None, [1.0, 0.0]]
    assert table["entropy"] == [pytest.approx(1.5 * math.log(2)), None, 0]
    assert table["uncertain"] == [True, None, False]
    assert table["flag"] == [True, None, False]
    assert table["embedding"] == [[0, 1], None, [4, 5]]
    assert table["label"] == ["b", None, "b"]
    assert table["status"] == ["ok", "error", "ok"]


def test_the_speed_once_started_leaves_the_first_batch_out(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 101.0, 104.0])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    stages = StageTimes()
    stages.add(block(0, 1, 2), writing=0.0)
    assert stages.steady_rate() is None
    stages.add(block(3, 4), writing=0.0)
    stages.add(block(5, 6, 7, 8), writing=0.0)
    assert stages.steady_rate() == 6 / 4


def test_the_device_waits_where_no_engine_has_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 101.0, 104.0])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    stages = StageTimes(hardware=OccupiedHardware(cores=8, gpus=0.5))
    stages.processes |= {"forward": 2.0}
    stages.add(block(0) | {"seconds_forward": np.array([9.0])}, writing=0.0)
    assert stages.device_wait_share() is None
    stages.add(block(1, 2) | {"seconds_forward": np.array([1.0, 2.0]), "seconds_decode": np.ones(2)}, writing=0.5)
    stages.add(block(3) | {"seconds_forward": np.array([3.0])}, writing=0.0)
    # Two engines had batches for 6 s of 2 * 4 s.
    assert stages.device_wait_share() == 0.25
    stages.elapsed = 10.0
    assert stages.cost_values() == {
        "images_per_core_second": (4 / 10 / 8, "images/core-s"),
        "images_per_gpu_second": (4 / 10 / 0.5, "images/GPU-s"),
        "device_wait_share": (0.25, "1"),
    }
    assert stages.describe_cost() == (
        "cost: 0.05 images/core-s on 8 cores, 0.8 images/GPU-s on 0.5 GPUs; the device waited 25% of the time, for "
        "decode"
    )


def test_the_summary_counts_what_is_committed(begun: tuple[PredictionFolder, ManifestListing, Manifest]) -> None:
    folder, _, manifest = begun
    gathered = PredictionWriter(folder, manifest, LAYOUT, retry_errors=False)
    gathered.add(block(*range(8)))
    gathered.add(block(8, reason="damaged PNG: at 7") | {"row": np.array([8])})
    gathered.add(block(9, reason="damaged PNG: at 9"))
    stages = StageTimes()
    stages.add(
        block(0, 1) | {"bytes": np.array([3, 4]), "seconds_read": np.array([1.0, 2.0]), "seconds_forward": np.ones(2)},
        writing=0.5,
    )
    stages.processes |= {"read": 6.0}
    stages.elapsed, stages.hardware = 4.0, OccupiedHardware(cores=4)
    summary = summarise_predictions(folder, manifest, CLASSES, overlay_missing=10)
    values = {name: value for name, (value, _) in summary.values(stages).items()}
    # The five benign images come first; the last two of the malignant ones have errors.
    assert values["images"] == 10
    assert "images_per_second_once_started" not in values
    assert (values["errors"], values["errors: damaged PNG"]) == (2, 2)
    assert (values["predicted_benign"], values["predicted_malignant"]) == (8, 0)
    assert (values["labelled"], values["accuracy"]) == (8, 5 / 8)
    assert (values["images_per_second"], values["bytes_read"], values["overlay_missing"]) == (0.5, 7, 10)
    assert (values["seconds_read"], values["seconds_write"]) == (3, 0.5)
    assert values["bottleneck: forward"] == pytest.approx(2 / (3 / 6 + 2 + 0.5))
    assert summary.lines(stages) == [
        "10 images: 8 benign, 0 malignant, 2 errors",
        "  2 damaged PNG",
        "accuracy 0.625 (0.242 to 0.897), macro-F1 0.385 (0.116 to 0.748) on the 8 images whose label is known; 95 % "
        "intervals, taking each image for independent",
        "the images whose label is known may include those that the model was trained on",
        "bottleneck: forward (67% of the stages' time: listing 0.0 s, read 3.0 s, decode 0.0 s, forward 2.0 s, "
        "write 0.5 s)",
        "cost: 0.125 images/core-s on 4 cores",
    ]
    assert (values["images_per_core_second"], "images_per_gpu_second" in values) == (0.125, False)
    assert "device_wait_share" not in values  # there was only one batch
