import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from overlay.config import Limits, Predict
from overlay.errors import RequestError
from overlay.prediction.output_folder import PredictionFolder, PredictionRequest
from overlay.prediction.schema import prediction_schema
from overlay.sources.manifest import Manifest, ManifestListing, write_manifest
from overlay.sources.resolve import resolve_inputs
from overlay.storage.path import StoragePath

CLASSES = ("benign", "malignant")
SUMMARY = {"images": (2.0, "images"), "seconds": (0.5, "s")}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        (folder / name).touch()
    return folder


def list_in(inputs: Path, folder: Path, part_rows: int = 10_000) -> ManifestListing:
    folder.mkdir(exist_ok=True)
    return write_manifest(resolve_inputs([str(inputs)], CLASSES, Limits()), folder, part_rows, lambda _: None)


class Asked:
    """A request and all that belongs to it."""

    def __init__(self, images: Path, model: str = "m1", **options: Any) -> None:  # noqa: ANN401
        config = Predict(model="model.pth", inputs=[str(images)], out="out", **options)
        self.listing = list_in(images, images.with_name("listed"), config.part_rows)
        self.request = PredictionRequest.create(config, model, self.listing)


def predict(folder: PredictionFolder, asked: Asked) -> Manifest:
    """Do all that a prediction does with its folder."""
    manifest = folder.begin(asked.request, asked.listing, anew=True)
    row = {"id": "a.png", "uri": "a.png", "status": "ok", "label": "benign", "confidence": 0.75}
    folder.write_part(0, pa.Table.from_pylist([row], schema=prediction_schema(CLASSES)))
    folder.commit(asked.request, SUMMARY)
    return manifest


def refused(folder: PredictionFolder, asked: Asked, *, overwrite: bool = False) -> str:
    with pytest.raises(RequestError) as refusal:
        folder.check(asked.request, asked.listing.manifest, overwrite=overwrite)
    return str(refusal.value)


def test_columns() -> None:
    assert prediction_schema(CLASSES).names == [
        *("id", "uri", "member", "status", "error", "error_kind", "label", "confidence"),
        *("prob_benign", "prob_malignant", "model"),
    ]


def test_new_begun_complete(tmp_path: Path, images: Path) -> None:
    out = tmp_path / "out"
    folder, asked = PredictionFolder(StoragePath.of(out)), Asked(images)
    manifest = asked.listing.manifest
    assert folder.check(asked.request, manifest, overwrite=False) == "new"
    assert not out.exists()
    predict(folder, asked)
    assert folder.check(asked.request, manifest, overwrite=False) == "complete"
    assert folder.check(asked.request, manifest, overwrite=True) == "new"
    assert pq.read_table(out / "manifest")["id"].to_pylist() == ["a.png", "b.png"]
    assert pq.read_table(out / "metrics.parquet").to_pydict() == {
        "name": ["images", "seconds"],
        "value": [2, 0.5],
        "unit": ["images", "s"],
    }
    success = json.loads((out / "_SUCCESS.json").read_text())
    assert success["files"] == ["part-000000.parquet"]
    assert (success["rows"], success["model"], success["inputs"]) == (2, "m1", asked.listing.fingerprint)
    assert success["options"]["limits.members"] == 5_000_000
    assert sorted(entry.name for entry in out.iterdir()) == [
        *("_SUCCESS.json", "manifest", "metrics.parquet", "predictions", "request.json")
    ]
    (out / "_SUCCESS.json").unlink()
    assert folder.check(asked.request, manifest, overwrite=False) == "begun"
    assert folder.unreadable() == 0
    folder.commit(asked.request, {"images": (2, "images"), "unreadable": (1, "images")})
    assert folder.unreadable() == 1


def test_another_request_is_refused_by_what_differs(tmp_path: Path, images: Path) -> None:
    folder = PredictionFolder(StoragePath.of(tmp_path / "out"))
    predict(folder, Asked(images))
    for asked, difference in [
        (Asked(images, model="m2"), "the model's sha256 is m1 there and m2 here"),
        (Asked(images, precision="fp32"), "precision is auto there and fp32 here"),
        (Asked(images, limits=Limits(members=1)), "limits.members is 5000000 there and 1 here"),
    ]:
        assert refused(folder, asked) == (
            f"--out {folder.path} holds predictions of another request: {difference}; choose another folder, or "
            "--overwrite"
        )
    (images / "c.png").touch()
    assert "the inputs were 2 and are 3, and the first that differs: more or fewer files" in refused(
        folder, Asked(images)
    )
    assert folder.check(Asked(images).request, Asked(images).listing.manifest, overwrite=True) == "new"


def test_options_of_speed_are_not_part_of_it(tmp_path: Path, images: Path) -> None:
    folder = PredictionFolder(StoragePath.of(tmp_path / "out"))
    predict(folder, Asked(images))
    asked = Asked(images, batch_size=3, actors=2, device="cpu", retry_errors=True)
    assert folder.check(asked.request, asked.listing.manifest, overwrite=False) == "complete"


def test_another_engine_is_refused_before_anything_is_touched(tmp_path: Path, images: Path) -> None:
    folder, asked = PredictionFolder(StoragePath.of(tmp_path / "out")), Asked(images)
    asked.request = replace(asked.request, computed="openvino on cpu")
    predict(folder, asked)
    other = replace(asked.request, computed="torch on cuda")
    with pytest.raises(RequestError, match="holds rows computed by openvino on cpu, and here it would be torch on cud"):
        folder.begin(other, asked.listing, anew=False)
    assert folder.check(asked.request, asked.listing.manifest, overwrite=False) == "complete"
    folder.begin(other, asked.listing, anew=True)
    assert folder.committed() == set()


def test_going_on_keeps_what_is_whole(tmp_path: Path, images: Path) -> None:
    out = tmp_path / "out"
    folder, asked = PredictionFolder(StoragePath.of(out)), Asked(images)
    predict(folder, asked)
    (out / "predictions" / ".part-000001.parquet.0123.tmp").write_bytes(b"torn")
    (out / "manifest" / "part-000000.parquet").unlink()
    folder.begin(asked.request, asked.listing, anew=False)
    assert folder.committed() == {0}
    assert [file.name for file in (out / "predictions").iterdir()] == ["part-000000.parquet"]
    assert not (out / "_SUCCESS.json").exists()
    assert pq.read_table(out / "manifest")["id"].to_pylist() == ["a.png", "b.png"]


def test_beginning_anew_keeps_nothing(tmp_path: Path, images: Path) -> None:
    out = tmp_path / "out"
    folder = PredictionFolder(StoragePath.of(out))
    predict(folder, Asked(images))
    (out / ".work").mkdir()
    folder.save_rows(3, pa.table({"row": [1]}))
    asked = Asked(images / "a.png", model="m2")
    folder.begin(asked.request, asked.listing, anew=True)
    assert folder.committed() == set()
    assert list(folder.saved_rows()) == []
    assert pq.read_table(out / "manifest")["id"].to_pylist() == ["a.png"]
    assert folder.check(asked.request, asked.listing.manifest, overwrite=False) == "begun"


def test_what_is_saved(tmp_path: Path, images: Path) -> None:
    asked, folder = Asked(images), PredictionFolder(StoragePath.of(tmp_path / "out"))
    folder.begin(asked.request, asked.listing, anew=True)
    folder.save_rows(0, pa.table({"row": [1]}))
    folder.save_rows(1, pa.table({"row": [2, 3]}))
    folder.delete_rows(0)
    assert [(number, rows.to_pydict()) for number, rows in folder.saved_rows()] == [(1, {"row": [2, 3]})]


def test_a_file_is_refused(tmp_path: Path, images: Path) -> None:
    out = tmp_path / "out"
    out.touch()
    assert refused(PredictionFolder(StoragePath.of(out)), Asked(images)) == f"--out {out} is a file; name a folder"


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("names", [["photo.png"], ["predictions"], ["data", "request.json"]])
def test_something_else_is_refused_and_left_alone(
    tmp_path: Path, images: Path, names: list[str], overwrite: bool
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for name in names:
        (out / name).touch()
    message = refused(PredictionFolder(StoragePath.of(out)), Asked(images), overwrite=overwrite)
    assert message == f"--out {out} holds something else ({names[0]}); choose an empty folder"
    assert sorted(file.name for file in out.iterdir()) == names


def test_killed_before_its_first_file_was_whole(tmp_path: Path, images: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / ".request.json.0123.tmp").write_bytes(b"torn")
    asked = Asked(images)
    assert PredictionFolder(StoragePath.of(out)).check(asked.request, asked.listing.manifest, overwrite=False) == "new"


def test_files_that_appeared_are_inputs_that_may_be_tried_again(tmp_path: Path, images: Path) -> None:
    folder = PredictionFolder(StoragePath.of(tmp_path / "out"))
    (images / "b.png").rename(tmp_path / "b.png")
    listed = images.with_name("list.parquet")
    pq.write_table(pa.table({"path": [str(images / "a.png"), str(images / "b.png")]}), listed)
    predict(folder, Asked(listed))
    (tmp_path / "b.png").rename(images / "b.png")
    asked = Asked(listed)
    assert "b.png has changed" in refused(folder, asked)
    state = folder.check(asked.request, asked.listing.manifest, overwrite=False, retry_errors=True)
    assert state == "complete"
    folder.begin(asked.request, asked.listing, anew=False)
    assert folder.check(asked.request, asked.listing.manifest, overwrite=False) == "begun"
    assert pq.read_table(tmp_path / "out" / "manifest")["size"].to_pylist() == [0, 0]
    (images / "a.png").write_text("other")
    other = Asked(listed)
    with pytest.raises(RequestError, match=r"a\.png has changed"):
        folder.check(other.request, other.listing.manifest, overwrite=False, retry_errors=True)
