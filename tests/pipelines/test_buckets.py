"""Sources, datasets and predictions in a bucket: the same as on a disk."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset
import pytest

from overlay.config import Predict, Prepare
from overlay.dataset.prepared import PreparedDataset, open_dataset
from overlay.errors import RequestError, WorkError
from overlay.images.ref import ImageRef
from overlay.sources.reader import Reader
from overlay.storage import object_store
from overlay.storage.parquet import open_parquet
from overlay.storage.path import StoragePath
from pipelines import check, predict, prepare
from pipelines.training import image_source
from tests.pipelines.test_archives import folder_predictions, pack, predictions, random_model

__all__ = ["folder_predictions", "random_model"]  # fixtures


@pytest.fixture(scope="module")
def bucket(new_bucket: Callable[[], str], phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> StoragePath:
    """The phantoms as a folder and as archives."""
    place = StoragePath.of(new_bucket())
    for file in phantoms.rglob("*.png"):
        upload(file, place / "set" / file.relative_to(phantoms).as_posix())
    for name in ("x.zip", "x.tar.gz"):
        upload(pack(phantoms, tmp_path_factory.mktemp("packed") / name), place / name)
    return place


def upload(file: Path, place: StoragePath) -> None:
    from overlay.storage.atomic import write_atomically

    with write_atomically(place) as temporary:
        temporary.write_bytes(file.read_bytes())


@pytest.fixture(scope="module")
def in_bucket(bucket: StoragePath, dataset: PreparedDataset) -> PreparedDataset:
    """A dataset in a bucket, from a folder in a bucket."""
    return prepare.run(Prepare([str(bucket / "set")], str(bucket / "dataset")))


def test_a_bucket_gives_the_dataset_of_its_folder(
    in_bucket: PreparedDataset, dataset: PreparedDataset, capsys: pytest.CaptureFixture[str]
) -> None:
    assert in_bucket.card.fingerprint == dataset.card.fingerprint
    assert in_bucket.place.children() == sorted(os.listdir(dataset.path))  # noqa: PTH208
    request = in_bucket.card.request
    capsys.readouterr()
    assert prepare.run(Prepare(request.sources, in_bucket.path)) == in_bucket
    assert "nothing to do" in capsys.readouterr().out
    with pytest.raises(RequestError, match="max_pixels is 50000000 there and 9999999 here"):
        prepare.run(Prepare(request.sources, in_bucket.path, max_pixels=9_999_999))
    with pytest.raises(RequestError, match="holds something else than a prepared dataset"):
        prepare.run(Prepare(request.sources, str(in_bucket.place / "data")))


def test_archives_in_a_bucket(bucket: StoragePath, dataset: PreparedDataset, tmp_path: Path) -> None:
    for name in ("x.zip", "x.tar.gz"):
        prepared = prepare.run(Prepare([str(bucket / name)], str(tmp_path / name)))
        assert prepared.card.fingerprint == dataset.card.fingerprint


@pytest.mark.slow
def test_a_run_that_was_ended_goes_on(
    bucket: StoragePath, dataset: PreparedDataset, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = Prepare([str(bucket / "x.tar.gz")], str(bucket / "again"), shard_rows=8)
    with monkeypatch.context() as patch:
        patch.setattr(prepare, "read_staged", None)
        with pytest.raises(TypeError):
            prepare.run(config)
    (bucket / "again" / ".prepare" / "staged" / "part-00001.parquet").remove()
    capsys.readouterr()
    assert prepare.run(config).card.fingerprint == dataset.card.fingerprint
    assert "going on: 28 of 36 images are done already" in capsys.readouterr().out
    assert ".prepare" not in (bucket / "again").children()


@pytest.mark.slow
def test_training_and_evaluation_read_it(in_bucket: PreparedDataset, dataset: PreparedDataset) -> None:
    from overlay.config import Input

    opened = open_dataset(in_bucket.path)
    assert opened == in_bucket
    samples, local = (image_source.decode_split(each, "val", Input(size=32)) for each in (opened, dataset))
    everything = np.arange(len(local))
    assert samples.labels.tolist() == local.labels.tolist()
    assert np.array_equal(samples.gather(everything), local.gather(everything))
    table = pyarrow.dataset.dataset(opened.data_files(), filesystem=opened.filesystem).to_table(columns=["id"])
    assert table.num_rows == 36


def test_a_dataset_in_a_bucket_can_be_checked(in_bucket: PreparedDataset, capsys: pytest.CaptureFixture[str]) -> None:
    check.run(Prepare(check=in_bucket.path))
    assert f"{in_bucket.path} is clean" in capsys.readouterr().out
    one_file = str(in_bucket.place / "data" / "part-00000.parquet")
    check.run(Prepare(check=one_file))
    assert f"{one_file} is clean" in capsys.readouterr().out
    with pytest.raises(RequestError, match=r"check s3://.*/nothing\?.* is not there; check the path"):
        check.run(Prepare(check=str(in_bucket.place / "nothing")))


@pytest.mark.slow
def test_predictions_in_a_bucket(
    bucket: StoragePath, folder_predictions: list[Any], random_model: Path, tmp_path: Path
) -> None:
    rows = predictions([str(bucket / "set")], random_model, str(tmp_path / "out"))
    for row, other in zip(rows, folder_predictions, strict=True):
        assert row["id"] == other["id"]
        assert row["prob_benign"] == pytest.approx(other["prob_benign"], abs=1e-6)
    out = bucket / "predictions"
    config = Predict(model=str(random_model), inputs=[str(bucket / "x.tar.gz")], out=str(out), precision="fp32")
    predict.run(config)
    assert out.children() == ["_SUCCESS.json", "manifest", "metrics.parquet", "predictions", "request.json"]
    table = open_parquet(out / "predictions" / "part-000000.parquet").read()
    assert table["status"].to_pylist() == ["ok"] * 36
    predict.run(config)
    assert (out / "predictions").children() == ["part-000000.parquet"]


@pytest.mark.slow
def test_a_network_that_stays_away_is_no_bad_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phantoms: Path
) -> None:
    monkeypatch.setattr(object_store, "PAUSES", ())
    nowhere = "s3://bucket-0/x.png?endpoint_override=127.0.0.1:1&scheme=http"
    with Reader() as reader, pytest.raises(OSError, match="NETWORK_CONNECTION"):
        reader.read_function(ImageRef("x", nowhere))(nowhere)
    with pytest.raises(RequestError, match=r"source .* can't be reached: .*; check the address, the credentials"):
        prepare.run(Prepare([nowhere], str(tmp_path / "out")))
    with pytest.raises(WorkError, match="NETWORK_CONNECTION"):
        prepare.run(Prepare([str(phantoms)], nowhere))
    assert not (tmp_path / "out").exists()
