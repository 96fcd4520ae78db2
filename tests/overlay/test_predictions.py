from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from overlay.config import Predict
from overlay.errors import RequestError
from overlay.inputs import collect
from overlay.predictions import PredictionFolder, Request, schema
from overlay.storage import Place

CLASSES = ("benign", "malignant")
SUMMARY = {"images": (2.0, "images"), "seconds": (0.5, "s")}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        (folder / name).touch()
    return folder


def request_for(images: Path, *, model: str = "m1", precision: str = "auto") -> Request:
    config = Predict(model="model.pth", inputs=[str(images)], out="out", precision=precision)  # type: ignore[arg-type]
    return Request.of(config, model, collect([str(images)], CLASSES))


def predict(folder: PredictionFolder, images: Path) -> None:
    """Do all that a prediction does with its folder."""
    folder.begin(collect([str(images)], CLASSES))
    row = {"id": "a.png", "uri": "a.png", "status": "ok", "label": "benign", "confidence": 0.75}
    folder.write_part(0, pa.Table.from_pylist([row], schema=schema(CLASSES)))
    folder.commit(request_for(images), SUMMARY)


def refused(folder: PredictionFolder, request: Request, *, overwrite: bool = False) -> str:
    with pytest.raises(RequestError) as refusal:
        folder.check(request, overwrite)
    return str(refusal.value)


def test_columns() -> None:
    assert schema(CLASSES).names == [
        *("id", "uri", "member", "status", "error", "label", "confidence"),
        *("prob_benign", "prob_malignant", "model"),
    ]


def test_a_finished_prediction_is_not_done_again(tmp_path: Path, images: Path) -> None:
    out = tmp_path / "out"
    folder = PredictionFolder(Place.of(out))
    assert not folder.check(request_for(images), overwrite=False)
    assert not out.exists()
    predict(folder, images)
    assert folder.check(request_for(images), overwrite=False)
    assert not folder.check(request_for(images), overwrite=True)
    assert pq.read_table(out / "manifest.parquet")["id"].to_pylist() == ["a.png", "b.png"]
    assert pq.read_table(out / "metrics.parquet").to_pydict() == {
        "name": ["images", "seconds"],
        "value": [2, 0.5],
        "unit": ["images", "s"],
    }


def test_another_request_is_refused_by_what_differs(tmp_path: Path, images: Path) -> None:
    folder = PredictionFolder(Place.of(tmp_path / "out"))
    predict(folder, images)
    for name, other in [
        ("model", request_for(images, model="m2")),
        ("precision", request_for(images, precision="fp32")),
        ("listing", request_for(images / "a.png")),
    ]:
        assert refused(folder, other) == (
            f"--out {folder.path} holds predictions with another {name}; choose another folder, or --overwrite"
        )


def test_what_is_not_complete_begins_anew(tmp_path: Path, images: Path) -> None:
    out = tmp_path / "out"
    folder = PredictionFolder(Place.of(out))
    predict(folder, images)
    (out / "_SUCCESS.json").unlink()
    (out / "predictions" / "part-00007.parquet").write_bytes(b"of a larger request")
    (out / ".metrics.parquet.0123.tmp").write_bytes(b"torn")
    assert not folder.check(request_for(images, model="m2"), overwrite=False)
    folder.begin(collect([str(images)], CLASSES))
    assert list((out / "predictions").iterdir()) == []


def test_a_file_is_refused(tmp_path: Path, images: Path) -> None:
    out = tmp_path / "out"
    out.touch()
    assert refused(PredictionFolder(Place.of(out)), request_for(images)) == f"--out {out} is a file; name a folder"


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    "names",
    [
        ["photo.png"],
        ["predictions"],  # whose they are, nothing here tells
        ["data", "manifest.parquet"],  # a prepared dataset has a manifest too
    ],
)
def test_something_else_is_refused_and_left_alone(
    tmp_path: Path, images: Path, names: list[str], overwrite: bool
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for name in names:
        (out / name).touch()
    message = refused(PredictionFolder(Place.of(out)), request_for(images), overwrite=overwrite)
    assert message == f"--out {out} holds something else ({names[0]}); choose an empty folder"
    assert sorted(file.name for file in out.iterdir()) == names


def test_killed_before_its_first_file_was_whole(tmp_path: Path, images: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / ".manifest.parquet.0123.tmp").write_bytes(b"torn")
    assert not PredictionFolder(Place.of(out)).check(request_for(images), overwrite=False)
