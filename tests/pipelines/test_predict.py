import io
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow.parquet as pq
import pytest
import torch

from cluster import session
from cluster.nodes import NodeSize, Resources
from overlay.config import Predict, Tracking
from overlay.engines.base import EnginePlan
from overlay.errors import RequestError
from overlay.images.codec import decode_image
from overlay.images.resize import resize_image
from overlay.models import model_file
from overlay.models.network import normalise
from pipelines import predict
from pipelines.inference import actor_pool
from tests.pipelines.test_archives import random_model

__all__ = ["random_model"]  # a fixture


@pytest.fixture(scope="module")
def images(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images with and without masks, three broken ones, and a file that is none."""
    folder = tmp_path_factory.mktemp("images")
    for name in ("benign", "malignant"):
        (folder / name).mkdir()
        for path in sorted((phantoms / name).glob(f"{name} (?)*.png"))[:10]:
            shutil.copy(path, folder / name)
    whole = (phantoms / "normal" / "normal (1).png").read_bytes()
    (folder / "truncated.png").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.jpg").touch()
    (folder / "text.png").write_text("no image")
    (folder / "notes.txt").write_text("passed over")
    return folder


@pytest.fixture(scope="module")
def predicted(random_model: Path, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Predictions in parts of four rows, on Ray."""
    out = tmp_path_factory.mktemp("predicted") / "out"
    predict.run(
        Predict(str(random_model), [str(images)], str(out), part_rows=4, precision="fp32", actors=1, batch_size=5)
    )
    return out


def test_each_input_has_one_row(predicted: Path, images: Path) -> None:
    rows = duckdb.read_parquet(f"{predicted}/predictions/*.parquet").order("id").df()
    wanted = sorted(
        str(path.relative_to(images))
        for path in images.rglob("*.*")
        if path.suffix in (".png", ".jpg") and "_mask" not in path.name
    )
    assert rows["id"].tolist() == wanted
    ok = rows[rows["status"] == "ok"]
    assert ok["error"].isna().all()
    sums = ok[["prob_benign", "prob_malignant", "prob_normal"]].sum(axis=1)
    assert np.allclose(sums, 1, atol=1e-5)
    broken = rows[rows["status"] == "error"]
    assert broken["id"].tolist() == ["empty.jpg", "text.png", "truncated.png"]
    assert broken["error"].str.len().gt(5).all()
    assert broken[["label", "confidence", "prob_benign"]].isna().all(axis=None)


def test_a_row_is_what_the_model_says_of_its_image(predicted: Path, random_model: Path) -> None:
    file = model_file.load_model_file(random_model)
    network = model_file.build_network(file)
    for row in pq.read_table(predicted / "predictions").to_pylist():
        masks = list(Path(row["uri"]).parent.glob(f"{Path(row['uri']).stem}_mask*"))
        if row["status"] == "error" or masks:
            continue
        pixels = resize_image(decode_image(Path(row["uri"]).read_bytes(), target=32), 32, "squash")
        mean, std = torch.tensor(file.card.mean), torch.tensor(file.card.std)
        with torch.inference_mode():
            logits = network(normalise(torch.from_numpy(pixels[None]), mean, std))
        assert row["prob_benign"] == pytest.approx(logits.softmax(1)[0, 0].item(), abs=1e-5)
        assert row["model"] == file.sha256


def test_parts_follow_the_manifest_and_success_comes_last(predicted: Path) -> None:
    success = json.loads((predicted / "_SUCCESS.json").read_text())
    ids = pq.read_table(predicted / "manifest")["id"].to_pylist()
    parts = [pq.read_table(predicted / "predictions" / name)["id"].to_pylist() for name in success["files"]]
    assert [name for part in parts for name in part] == ids
    assert {len(part) for part in parts[:-1]} == {4}
    assert success["rows"] == len(ids)


def test_other_engines_read_the_folder_as_it_is(predicted: Path) -> None:
    parts = str(predicted / "predictions" / "*.parquet")
    expected = pq.read_table(predicted / "predictions").sort_by("id").to_pylist()
    assert len(expected) == 13
    assert duckdb.read_parquet(parts).order("id").to_arrow_table().to_pylist() == expected
    assert pl.read_parquet(parts).sort("id").to_dicts() == expected
    frame = pd.read_parquet(predicted / "predictions").sort_values("id")
    assert frame.astype(object).where(frame.notna(), None).to_dict("records") == expected


def test_the_metrics_count_what_the_rows_say(predicted: Path) -> None:
    metrics = {row["name"]: row for row in pq.read_table(predicted / "metrics.parquet").to_pylist()}
    rows = pq.read_table(predicted / "predictions").to_pylist()
    assert metrics["images"]["value"] == len(rows)
    assert metrics["errors"]["value"] == 3
    labels = [row["label"] for row in rows]
    for name in ("benign", "malignant", "normal"):
        assert metrics[f"predicted_{name}"]["value"] == labels.count(name)
    known = [(Path(row["uri"]).parent.name, row["label"]) for row in rows if row["status"] == "ok"]
    assert metrics["accuracy"]["value"] == sum(true == label for true, label in known) / len(known)
    assert metrics["images_per_second"]["unit"] == "images/s"
    per_core = metrics["images_per_second"]["value"] / session.resources().cpus
    assert metrics["images_per_core_second"]["value"] == pytest.approx(per_core)
    assert "images_per_gpu_second" not in metrics
    assert 0 <= metrics["device_wait_share"]["value"] <= 1


def test_few_images_get_the_same_rows_without_ray(
    predicted: Path, random_model: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pipelines.inference.ray_backend", None)
    predict.run(Predict(str(random_model), [str(images)], str(tmp_path / "out"), part_rows=4, precision="fp32"))
    few, many = (pq.read_table(out / "predictions").to_pandas() for out in (tmp_path / "out", predicted))
    numbers = [name for name in few.columns if name.startswith("prob_")] + ["confidence"]
    assert np.allclose(few[numbers], many[numbers], atol=1e-6, equal_nan=True)
    assert few.drop(columns=numbers).equals(many.drop(columns=numbers))


@pytest.mark.slow
def test_two_batches_at_one_time_give_the_same_rows(
    predicted: Path, random_model: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU: two threads of an actor on Ray, or of this process, call the engine."""
    monkeypatch.setattr(EnginePlan, "in_flight", 2)
    inputs, expected = [str(images)], pq.read_table(predicted / "predictions").to_pandas()
    for where, actors in (("ray", 1), ("here", None)):
        out = tmp_path / where
        config = Predict(str(random_model), inputs, str(out), precision="fp32", actors=actors, engine="torch")
        predict.run(replace(config, part_rows=4, batch_size=3))
        found = pq.read_table(out / "predictions").to_pandas()
        numbers = [name for name in found.columns if name.startswith("prob_")] + ["confidence"]
        assert np.allclose(found[numbers], expected[numbers], atol=1e-5, equal_nan=True)
        assert found.drop(columns=numbers).equals(expected.drop(columns=numbers))


@pytest.mark.slow
def test_the_actors_start_anew_where_nodes_change(
    predicted: Path,
    random_model: Path,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The nodes are invented: the execution ends before its first row, once it looks at them, and the next is whole."""
    seen = [NodeSize(2)]

    def look() -> tuple[NodeSize, ...]:
        seen[:] = [NodeSize(1), NodeSize(1)]
        return tuple(seen)

    monkeypatch.setattr(session, "resources", lambda: Resources(tuple(seen)))
    monkeypatch.setattr(actor_pool, "working_nodes", look)
    monkeypatch.setattr(actor_pool, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(actor_pool, "SETTLE_SECONDS", 0.0)
    monkeypatch.setattr(predict, "is_small_job", lambda _: False)
    predict.run(Predict(str(random_model), [str(images)], str(tmp_path / "out"), part_rows=4, precision="fp32"))
    told = capsys.readouterr().out
    assert told.count("processes that hold the model: 2, before 1\n") == 1
    assert "cost: not known, since nodes came or went\n" in told
    assert not [row for row in pq.read_table(tmp_path / "out" / "metrics.parquet").to_pylist() if "core" in row["name"]]
    both = [
        duckdb.read_parquet(f"{out}/predictions/*.parquet").order("id").df() for out in (predicted, tmp_path / "out")
    ]
    assert both[0]["id"].equals(both[1]["id"])
    assert np.allclose(both[0]["prob_benign"], both[1]["prob_benign"], atol=1e-5, equal_nan=True)


def test_done_already(predicted: Path, random_model: Path, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (predicted / "_SUCCESS.json").stat()
    same = Predict(model=str(random_model), inputs=[str(images)], out=str(predicted), precision="fp32", part_rows=4)
    predict.run(same)
    assert "nothing to do" in capsys.readouterr().out
    assert (predicted / "_SUCCESS.json").stat() == before
    with pytest.raises(RequestError, match="another request: precision is fp32 there and auto here"):
        predict.run(replace(same, precision="auto"))


def test_bad_requests_write_nothing(random_model: Path, images: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    (tmp_path / "empty").mkdir()
    for model_path, inputs, message in [
        (str(random_model), ["nowhere"], "input nowhere is not there"),
        (str(random_model), [str(tmp_path / "empty")], "no image in"),
        ("nowhere.pth", [str(images)], "no weights at nowhere.pth"),
        (str(images / "text.png"), [str(images)], "holds no"),
    ]:
        with pytest.raises(RequestError, match=message) as refused:
            predict.run(Predict(model=model_path, inputs=inputs, out=out))
        assert "\n" not in str(refused.value)
    with pytest.raises(RequestError, match="holds something else"):
        predict.run(Predict(model=str(random_model), inputs=[str(images)], out=str(images)))
    assert not Path(out).exists()


def rows_of(out: Path) -> dict[str, dict[str, Any]]:
    """Return the rows of a prediction by their ids, without what differs from engine to engine by rounding."""
    return {row["id"]: row for row in pq.read_table(out / "predictions").to_pylist()}


@pytest.mark.slow
def test_what_could_not_be_read_is_tried_again(
    random_model: Path, phantoms: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["benign (1).png", "benign (2).png", "benign (3).png"]
    for name in names[:2]:
        shutil.copy(phantoms / "benign" / name, tmp_path)
    listed = "".join(f"{tmp_path}/{name}\n" for name in names)
    config = Predict(str(random_model), ["-"], str(tmp_path / "out"), allow_root=str(tmp_path), part_rows=2)

    def run(config: Predict) -> str:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.stdin", io.StringIO(listed))
            predict.run(config)
        return capsys.readouterr().out

    said = run(config)
    assert "1 file that can't be read" in said
    assert "1 could not be read, which may pass; --retry_errors tries them again" in said
    before = rows_of(tmp_path / "out")
    assert before[names[2]]["error"] == "file that can't be read: No such file or directory"
    assert "going on: 2 of 3 images are done already" in run(replace(config, retry_errors=True))
    assert rows_of(tmp_path / "out") == before
    assert "nothing to do" in run(config)
    shutil.copy(phantoms / "benign" / names[2], tmp_path)
    with pytest.raises(RequestError, match=r"the first that differs: benign \(3\)\.png has changed"):
        run(config)
    assert "3 images: " in run(replace(config, retry_errors=True))
    after = rows_of(tmp_path / "out")
    assert after.pop(names[2])["status"] == "ok"
    assert after == {name: before[name] for name in names[:2]}
    assert "nothing to do" in run(config)


def test_a_model_of_overlays_and_bare_images(
    random_model: Path, phantoms: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [str(phantoms / "benign" / name) for name in ("benign (1).png", "benign (1)_mask.png", "benign (2).png")]
    predict.run(Predict(model=str(random_model), inputs=files, out=str(tmp_path / "out")))
    said = capsys.readouterr().out
    assert said.count("WARNING") == 1
    assert "WARNING: the model was trained on images with their masks drawn on them (1 of these 2 have no mask)" in said
    metrics = {row["name"]: row["value"] for row in pq.read_table(tmp_path / "out" / "metrics.parquet").to_pylist()}
    assert metrics["overlay_missing"] == 1
    assert metrics["seconds_decode"] > 0
    assert sum(name.startswith("bottleneck: ") for name in metrics) == 1


def test_columns_that_were_asked_for(random_model: Path, phantoms: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    config = Predict(
        str(random_model), [str(phantoms / "benign")], str(out), top_k=2, entropy=True, embeddings=True, flips=True
    )
    predict.run(config)
    found = duckdb.read_parquet(f"{out}/predictions/*.parquet").df()
    assert (found["top_labels"].str[0] == found["label"]).all()
    assert np.allclose(found["top_probabilities"].str[0], found["confidence"])
    assert found["entropy"].between(0, np.log(3)).all()
    assert {len(embedding) for embedding in found["embedding"]} == {512}
    assert set(found["precision"]) <= {"bf16", "fp32"}
    assert pd.read_parquet(out / "predictions")["id"].tolist() == found.sort_values("id")["id"].tolist()


def test_an_engine_that_can_not_be_had_leaves_nothing(
    random_model: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("overlay.engines.factory.find_spec", lambda _: None)
    for actors in (None, 1):
        config = Predict(str(random_model), [str(images)], str(tmp_path / "out"), engine="openvino", actors=actors)
        with pytest.raises(RequestError, match="openvino is not installed"):
            predict.run(config)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_int8_is_calibrated_on_the_inputs(
    random_model: Path, phantoms: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("nncf")
    out = tmp_path / "out"
    predict.run(Predict(str(random_model), [str(phantoms)], str(out), precision="int8"))
    assert "int8: the same label as fp32 on " in capsys.readouterr().out
    assert set(pq.read_table(out / "predictions")["precision"].to_pylist()) == {"int8"}


def test_tracking(random_model: Path, phantoms: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    config = Predict(str(random_model), [str(phantoms / "benign")], str(out), tracking=Tracking(mode="offline"))
    predict.run(config)
    assert len(list((out / "wandb").rglob("*.wandb"))) == 1
    predict.run(config)
    assert "nothing to do" in capsys.readouterr().out
