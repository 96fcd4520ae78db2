"""DICOM files and Hugging Face's tables through whole jobs."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image

from overlay.config import Prepare, Split
from overlay.images.codec import decode_image
from pipelines import prepare
from tests.overlay.images.test_dicom import dicom
from tests.pipelines.test_archives import predictions, random_model

__all__ = ["random_model"]  # a fixture


def speckle(seed: int, shape: tuple[int, ...] = (40, 50)) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 200, shape).astype(np.uint8)


def stored_rows(dataset: Any) -> list[Any]:  # noqa: ANN401
    rows = [row for file in dataset.data_files() for row in pq.read_table(file).to_pylist()]
    return sorted(rows, key=lambda row: row["id"])


@pytest.mark.slow
def test_dicom_cine_loops_become_a_dataset_and_predictions(
    tmp_path: Path, ray_session: None, random_model: Path
) -> None:
    """Five patients a class; each has a loop of two frames, 8 or 16 bits, black on white for one."""
    for number, label in enumerate(["benign", "malignant"] * 5):
        loop = speckle(number, (2, 40, 50))
        tags: dict[str, Any] = {"NumberOfFrames": 2, "PatientID": f"secret-{number}"}
        (tmp_path / "set" / label).mkdir(parents=True, exist_ok=True)
        file = tmp_path / "set" / label / f"{number}.dcm"
        if number == 0:
            file.write_bytes(dicom(255 - loop, "MONOCHROME1", **tags))
        elif number == 1:
            file.write_bytes(dicom(loop.astype(np.uint16) * 257, **tags))
        else:
            file.write_bytes(dicom(loop, **tags))
    dataset = prepare.run(Prepare([str(tmp_path / "set")], str(tmp_path / "dataset"), split=Split(folds=3)))
    rows = stored_rows(dataset)
    assert len(rows) == 20
    for row in rows:
        number = int(row["id"].split("/")[1].split(".")[0])
        expected = speckle(number, (2, 40, 50))[row["frame"]]
        shown = decode_image(row["image"]["bytes"])
        np.testing.assert_array_equal(shown, np.repeat(expected[:, :, np.newaxis], 3, axis=2))
    assert len({row["group"] for row in rows}) == 10
    files = b"".join(path.read_bytes() for path in (tmp_path / "dataset").rglob("*") if path.is_file())
    assert b"secret-" not in files
    answers = predictions([str(tmp_path / "set")], random_model, str(tmp_path / "out"))
    assert [row["id"] for row in answers] == [row["id"] for row in rows]
    assert {row["status"] for row in answers} == {"ok"}


@pytest.mark.slow
def test_tables_of_hugging_face_become_a_dataset_with_their_splits_and_predictions(
    tmp_path: Path, ray_session: None, random_model: Path
) -> None:
    features = {"label": {"names": ["normal", "benign", "malignant"], "_type": "ClassLabel"}}
    mask = np.zeros((40, 50), np.uint8)
    mask[10:30, 10:30] = 255

    def table(first: int, count: int) -> pa.Table:
        columns = {
            "image": [{"bytes": png(speckle(first + i)), "path": f"{first + i}.png"} for i in range(count)],
            "mask": [{"bytes": png(mask), "path": None}] * count,
            "label": [i % 3 for i in range(count)],
        }
        return pa.table(columns).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})

    (tmp_path / "hub").mkdir()
    for name, first, count in (("train", 0, 6), ("validation", 10, 3), ("test", 20, 3)):
        pq.write_table(table(first, count), tmp_path / "hub" / f"{name}-00000-of-00001.parquet")
    dataset = prepare.run(Prepare([str(tmp_path / "hub")], str(tmp_path / "dataset")))
    assert dataset.card.counts == {
        label: {"train": 2, "val": 1, "test": 1} for label in ("benign", "malignant", "normal")
    }
    rows = stored_rows(dataset)
    assert all(row["mask"] is not None for row in rows)
    test = tmp_path / "hub" / "test-00000-of-00001.parquet"
    answers = predictions([str(test)], random_model, str(tmp_path / "out"))
    assert [(row["id"], row["status"]) for row in answers] == [(f"{number}.png", "ok") for number in (20, 21, 22)]
    metrics = {row["name"]: row["value"] for row in pq.read_table(tmp_path / "out" / "metrics.parquet").to_pylist()}
    assert metrics["labelled"] == 3


def png(pixels: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()
