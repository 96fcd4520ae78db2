"""The same images from a folder, an archive or a bucket: the same dataset and the same predictions."""

import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from overlay.config import Limits, OverlayStyle, Predict, Prepare
from overlay.dataset.prepared import PreparedDataset
from overlay.errors import RequestError
from overlay.models import model_file
from overlay.models.network import IMAGENET_MEAN, IMAGENET_STD, create_network
from pipelines import predict, prepare


def pack(folder: Path, archive: Path, order: Callable[[Path], Any] | None = None) -> Path:
    """Write a folder, itself included, into an archive of the kind that its name says."""
    files = sorted(folder.rglob("*.png"), key=order)
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
            for file in files:
                packed.write(file, file.relative_to(folder.parent))
        return archive
    stream = io.BytesIO()
    mode: Literal["w", "w:gz"] = "w:gz" if archive.name.endswith("gz") else "w"
    with tarfile.open(fileobj=stream, mode=mode, format=tarfile.GNU_FORMAT) as tar:
        for file in files:
            tar.add(file, file.relative_to(folder.parent))
    data = stream.getvalue()
    archive.write_bytes(pa.Codec("zstd").compress(data, asbytes=True) if archive.suffix == ".zst" else data)
    return archive


@pytest.fixture(scope="module")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network with random weights."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model") / "model.pth"
    classes = ("benign", "malignant", "normal")
    card = model_file.ModelCard(
        arch="resnet18",
        classes=classes,
        size=32,
        resize="squash",
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        overlay=OverlayStyle(),
        dataset="",
        weights="none",
        version="0",
    )
    state = create_network("resnet18", len(classes)).state_dict()
    model_file.save_model_file(path, state, card)  # type: ignore[arg-type]
    return path


@pytest.fixture(scope="module")
def folder_predictions(phantoms: Path, random_model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """The rows of the phantoms in their folder, from Ray; those of few images come from the command's own process."""
    out = tmp_path_factory.mktemp("predicted") / "out"
    return predictions([str(phantoms)], random_model, str(out), actors=1)


def predictions(inputs: list[str], random_model: Path, out: str, **options: Any) -> list[Any]:  # noqa: ANN401
    """Predict, and return the rows in the order of their ids."""
    predict.run(Predict(model=str(random_model), inputs=inputs, out=out, precision="fp32", **options))
    return sorted(pq.read_table(f"{out}/predictions").to_pylist(), key=lambda row: row["id"])


def masks_last(file: Path) -> tuple[bool, str]:
    return "_mask" in file.name, str(file)


@pytest.mark.parametrize("name", ["x.zip", "x.tar", "x.tar.gz", "x.tar.zst"])
def test_an_archive_gives_the_dataset_of_its_folder(
    dataset: PreparedDataset, phantoms: Path, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = pack(phantoms, tmp_path / name, order=masks_last)
    config = Prepare([str(archive)], str(tmp_path / "out"))
    prepared = prepare.run(config)
    assert prepared.card.fingerprint == dataset.card.fingerprint
    assert prepared.card.counts == dataset.card.counts
    manifest = pq.read_table(tmp_path / "out" / "manifest.parquet").to_pylist()
    assert {row["uri"] for row in manifest} == {str(archive)}
    (row,) = [row for row in manifest if row["id"] == "benign/benign (1).png"]
    assert row["member"] == f"{phantoms.name}/benign/benign (1).png"
    assert row["masks"][0] == f"{phantoms.name}/benign/benign (1)_mask.png"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["out", name]
    capsys.readouterr()
    prepare.run(config)
    assert "nothing to do" in capsys.readouterr().out


@pytest.mark.parametrize("actors", [None, 1])
@pytest.mark.parametrize("name", ["x.zip", "x.tar.gz"])
def test_an_archive_gives_the_predictions_of_its_folder(
    folder_predictions: list[Any], phantoms: Path, random_model: Path, name: str, actors: int | None, tmp_path: Path
) -> None:
    archive = pack(phantoms, tmp_path / name, order=masks_last)
    rows = predictions([str(archive)], random_model, str(tmp_path / "out"), actors=actors, part_rows=10)
    assert [row["id"] for row in rows] == [f"{phantoms.name}/{row['id']}" for row in folder_predictions]
    for row, other in zip(rows, folder_predictions, strict=True):
        assert row["status"] == "ok"
        assert (row["uri"], row["member"]) == (str(archive), row["id"])
        assert row["prob_benign"] == pytest.approx(other["prob_benign"], abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("actors", [None, 1])
def test_a_dataset_and_its_tables_give_the_predictions_of_the_folder(
    folder_predictions: list[Any], dataset: PreparedDataset, random_model: Path, actors: int | None, tmp_path: Path
) -> None:
    rows = predictions([dataset.path], random_model, str(tmp_path / "out"), actors=actors)
    assert [row["id"] for row in rows] == [row["id"] for row in folder_predictions]
    for row, other in zip(rows, folder_predictions, strict=True):
        assert row["prob_benign"] == pytest.approx(other["prob_benign"], abs=1e-6)
    metrics = {row["name"]: row["value"] for row in pq.read_table(tmp_path / "out" / "metrics.parquet").to_pylist()}
    assert (metrics["labelled"], metrics["overlay_missing"]) == (36, 0)
    table = f"{dataset.path}/data/part-00000.parquet"
    assert predictions([table], random_model, str(tmp_path / "table"), actors=actors)[0]["uri"] == table


def test_a_folder_of_shards_and_all_that_is_wrong_with_them(phantoms: Path, random_model: Path, tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    shards.mkdir()
    pack(phantoms / "benign", shards / "a.tar.gz")
    whole = pack(phantoms / "normal", tmp_path / "whole.tar").read_bytes()
    (shards / "b.tar").write_bytes(whole[: whole.rindex(b"ustar") - 257])  # cut at the border of its last member
    (shards / "c.zip").write_text("<html>404</html>")
    with zipfile.ZipFile(shards / "d.zip", "w") as archive:
        archive.writestr("../../escaped.png", "x")
        archive.writestr("malignant/broken.png", "no image")
        archive.writestr("malignant/inner.zip", "")
        archive.writestr("__MACOSX/malignant/._broken.png", "")
    rows = {row["id"]: row for row in predictions([str(shards)], random_model, str(tmp_path / "out"))}
    errors = {id: row["error"] for id, row in rows.items() if row["status"] == "error"}
    assert errors == {
        "b.tar": "cut off archive: the blocks that mark its end are missing",
        "c.zip": "no archive that can be read (zip, tar, tar.gz, tar.zst)",
        "d.zip/../../escaped.png": "unsafe name: absolute, or leading out of the archive",
        "d.zip/malignant/broken.png": "no image that can be read, by its content",
        "d.zip/malignant/inner.zip": "archive within an archive: give it as a source of its own",
    }
    assert not (tmp_path / "escaped.png").exists()
    assert sum(row["status"] == "ok" for row in rows.values()) == 24


def test_troubles_are_rejected_with_their_reasons(phantoms: Path, tmp_path: Path, ray_session: None) -> None:
    archive = pack(phantoms, tmp_path / "x.zip")
    with zipfile.ZipFile(archive, "a") as more:
        more.writestr("/etc/x.png", "x")
        more.writestr(f"{phantoms.name}/benign/inner.tar.gz", "x")
        more.writestr(f"{phantoms.name}/normal/huge.png", bytes(300_000))
    (tmp_path / "broken.zip").write_bytes(b"PK\3\4")
    limits = Limits(member_bytes=200_000)
    config = Prepare([str(archive), str(tmp_path / "broken.zip")], str(tmp_path / "out"), limits=limits)
    prepare.run(config)
    rejected = {row["id"]: row for row in pq.read_table(tmp_path / "out" / "rejected.parquet").to_pylist()}
    assert {id: (row["label"], row["reason"].split(":")[0]) for id, row in rejected.items()} == {
        "broken/broken.zip": (None, "damaged or cut off zip"),
        "x//etc/x.png": (None, "unsafe name"),
        "x/benign/inner.tar.gz": (None, "archive within an archive"),
        "x/normal/huge.png": ("normal", "member too large"),
    }


def test_a_source_that_is_no_archive_is_a_wrong_request(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_text("<html>")
    with pytest.raises(RequestError, match=r"x\.zip holds no image that can be used: no archive that can be read"):
        prepare.run(Prepare([str(tmp_path / "x.zip")], str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()
