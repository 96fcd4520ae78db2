import json
import shutil
from pathlib import Path

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from overlay import model
from overlay.config import Predict
from overlay.errors import RequestError
from overlay.images import decode, resize
from overlay.network import normalise
from pipelines import predict
from tests.pipelines.conftest import Trained


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
def predicted(trained: Trained, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Predictions in parts of four rows."""
    out = tmp_path_factory.mktemp("predicted") / "out"
    predict.run(Predict(model=str(trained.folder), inputs=[str(images)], out=str(out), part_rows=4, precision="fp32"))
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


def test_a_row_is_what_the_model_says_of_its_image(predicted: Path, trained: Trained) -> None:
    file = model.load(trained.folder)
    network = model.network(file)
    for row in pq.read_table(predicted / "predictions").to_pylist():
        masks = list(Path(row["uri"]).parent.glob(f"{Path(row['uri']).stem}_mask*"))
        if row["status"] == "error" or masks:
            continue
        pixels = resize(decode(Path(row["uri"]).read_bytes(), target=32), 32, "squash")
        mean, std = torch.tensor(file.card.mean), torch.tensor(file.card.std)
        with torch.inference_mode():
            logits = network(normalise(torch.from_numpy(pixels[None]), mean, std))
        assert row["prob_benign"] == pytest.approx(logits.softmax(1)[0, 0].item(), abs=1e-5)
        assert row["model"] == file.sha256


def test_parts_follow_the_manifest_and_success_comes_last(predicted: Path) -> None:
    success = json.loads((predicted / "_SUCCESS.json").read_text())
    ids = pq.read_table(predicted / "manifest.parquet")["id"].to_pylist()
    parts = [pq.read_table(predicted / "predictions" / name)["id"].to_pylist() for name in success["files"]]
    assert [name for part in parts for name in part] == ids
    assert {len(part) for part in parts[:-1]} == {4}
    assert success["rows"] == len(ids)


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


def test_done_already(predicted: Path, trained: Trained, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (predicted / "_SUCCESS.json").stat()
    same = Predict(model=str(trained.folder), inputs=[str(images)], out=str(predicted), precision="fp32")
    predict.run(same)
    assert "nothing to do" in capsys.readouterr().out
    assert (predicted / "_SUCCESS.json").stat() == before
    with pytest.raises(RequestError, match="holds predictions with another precision"):
        predict.run(Predict(model=str(trained.folder), inputs=[str(images)], out=str(predicted)))


def test_bad_requests_write_nothing(trained: Trained, images: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    (tmp_path / "empty").mkdir()
    for model_path, inputs, message in [
        (str(trained.folder), ["nowhere"], "input nowhere is not there"),
        (str(trained.folder), [str(tmp_path / "empty")], "no image in"),
        ("nowhere.pth", [str(images)], "no weights at nowhere.pth"),
        (str(images / "text.png"), [str(images)], "holds no state_dict"),
    ]:
        with pytest.raises(RequestError, match=message) as refused:
            predict.run(Predict(model=model_path, inputs=inputs, out=out))
        assert "\n" not in str(refused.value)
    with pytest.raises(RequestError, match="holds something else"):
        predict.run(Predict(model=str(trained.folder), inputs=[str(images)], out=str(images)))
    assert not Path(out).exists()
