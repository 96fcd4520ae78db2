"""Damaged, odd and hostile inputs: a row for each, none wrong, in bounded memory and time."""

import gzip
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from overlay.config import Predict
from pipelines import predict
from tests import hostile
from tests.overlay.archives.test_index import tar, zipped
from tests.pipelines.test_archives import random_model

__all__ = ["random_model"]  # a fixture

GOOD = ("a/grey16.png", "a/cmyk.jpg", "a/moving.gif", "a/clear.png", "a/turned.jpg", "a/photo.png")
MEMORY = 2 * 2**30
"""bytes; torch and the engine take about a third of it"""


@pytest.fixture(scope="module")
def corpus(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus") / "corpus"
    (folder / "a").mkdir(parents=True)
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (40, 50, 3), np.uint8)
    picture = Image.fromarray(pixels)
    Image.fromarray(random.integers(0, 4096, (40, 50)).astype(np.uint16)).save(folder / "a" / "grey16.png")
    picture.convert("CMYK").save(folder / "a" / "cmyk.jpg")
    picture.save(folder / "a" / "moving.gif", save_all=True, append_images=[picture.rotate(90)])
    picture.convert("P").save(folder / "a" / "clear.png", transparency=3)
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(folder / "a" / "turned.jpg", exif=exif)
    whole = (phantoms / "normal" / "normal (1).png").read_bytes()
    (folder / "a" / "photo.png").write_bytes(whole)
    broken = folder / "broken"
    broken.mkdir()
    (broken / "truncated.png").write_bytes(whole[: len(whole) // 2])
    (broken / "empty.jpg").touch()
    (broken / "text.png").write_text("no image")
    Image.new("L", (13_000, 13_000)).save(broken / "vast.png", compress_level=9)
    with (broken / "sparse.tif").open("wb") as sparse:
        sparse.truncate(2**40)
    os.mkfifo(broken / "pipe.png")
    (broken / "bomb.zip").write_bytes(zipped({"zeros.png": bytes(50_000_000), "good.png": whole}))
    (broken / "nested.zip").write_bytes(zipped({"inner.zip": zipped({"x.png": whole}), "good.png": whole}))
    encrypted = bytearray(zipped({"secret.png": whole}))
    encrypted[encrypted.rindex(b"PK\1\2") + 8] |= 1
    (broken / "encrypted.zip").write_bytes(encrypted)
    (broken / "cut.tar.gz").write_bytes(gzip.compress(tar({"good.png": whole, "lost.png": whole}))[:-3000])
    endless = tarfile.TarInfo("endless.png")
    endless.size = 2**36
    zeros = gzip.compress(bytes(64 * 2**20))
    first = tarfile.TarInfo("good.png")
    first.size = len(whole)
    begun = first.tobuf() + whole + bytes(-len(whole) % 512) + endless.tobuf()
    (broken / "endless.tar.gz").write_bytes(gzip.compress(begun) + zeros * 50)  # several streams are one, by the format
    return folder


@pytest.mark.slow
def test_a_row_for_each_and_none_wrong(corpus: Path, random_model: Path, phantoms: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["predict", str(random_model), str(corpus), "--out", str(out), "--engine", "torch", "--precision", "fp32"]
    # Not getrusage: its peak would be that of this process, from which the command's is forked.
    code = (
        "import sys; from overlay.cli.main import main; status = main(sys.argv[1:]); "
        "print(open('/proc/self/status').read()); sys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], stdout=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0
    peak = re.search(r"VmHWM:\s+(\d+) kB", done.stdout)
    assert peak is not None
    assert int(peak[1]) * 1024 < MEMORY
    rows = {row["id"]: row for row in pq.read_table(out / "predictions").to_pylist()}
    manifest = pq.read_table(out / "manifest")["id"].to_pylist()
    assert sorted(rows) == sorted(manifest)
    assert pq.read_table(out / "predictions").num_rows == len(rows)
    errors = {id: row["error"].split(":")[0] for id, row in rows.items() if row["error"]}
    assert errors == {
        "broken/truncated.png": "damaged PNG",
        "broken/empty.jpg": "empty file",
        "broken/text.png": "no image that can be read, by its content",
        "broken/vast.png": "too many pixels",
        "broken/sparse.tif": "file too large",
        "broken/pipe.png": "not a regular file",
        "broken/bomb.zip": "unpacks to more than 100 times its size (limits.ratio)",
        "broken/nested.zip/inner.zip": "archive within an archive",
        "broken/encrypted.zip/secret.png": "encrypted member",
        "broken/cut.tar.gz": "damaged or cut off archive",
        "broken/endless.tar.gz": "unpacks to more than 100 times its size (limits.ratio)",
    }
    assert f", {len(errors)} errors" in done.stdout

    good = {id: row for id, row in rows.items() if row["status"] == "ok"}
    assert {*GOOD, "broken/nested.zip/good.png"} <= set(good)
    for name in GOOD:
        alone = tmp_path / Path(name).stem
        predict.run(Predict(str(random_model), [str(corpus / name)], str(alone), engine="torch", precision="fp32"))
        (row,) = pq.read_table(alone / "predictions").to_pylist()
        assert row["label"] == good[name]["label"]
        assert row["prob_benign"] == pytest.approx(good[name]["prob_benign"], abs=1e-6)
    whole = [id for id in good if id.endswith("good.png")]
    assert {round(good[id]["prob_benign"], 5) for id in whole} == {round(good["a/photo.png"]["prob_benign"], 5)}


def run_with_faulty_decoder(folder: Path, words: list[str], listed: bytes = b"") -> int:
    """Run a command in ``folder`` whose decoders are `hostile.DECODER`; return its exit status."""
    decoder = folder / "decoder"
    decoder.mkdir(exist_ok=True)
    hostile.install_decoder(decoder)
    path = os.pathsep.join([str(decoder), *sys.path])
    return subprocess.run(
        [sys.executable, "-m", "overlay", *words],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": path},
        input=listed,
        check=False,
    ).returncode


@pytest.mark.slow
def test_predict_ends_with_a_row_for_each_hostile_input(random_model: Path, tmp_path: Path) -> None:
    expected = {f"files/{id}": kind for id, kind in hostile.write_files(tmp_path / "files").items()}
    expected |= {f"files/{id}": kind for id, kind in hostile.write_archives(tmp_path / "files").items()}
    (tmp_path / "shown").mkdir()
    for table, rows in hostile.write_tables(tmp_path, tmp_path / "shown").items():
        expected |= {f"{table}/{id}": kind for id, kind in rows.items()}
    names = ["shown/table.png", "shown/lost.png", f"shown/{'x' * 300}.png"]
    expected |= {
        f"shown/{Path(name).name}": kind for name, kind in zip(names, (None, "unreadable", "refused"), strict=True)
    }
    listed = b"\xff\xfe" + "\r\n".join(f'"{name}"' for name in names).encode("utf-16-le")
    inputs = ["files", "paths.parquet", "images.parquet", "-"]
    words = ["predict", str(random_model), *inputs, "--out", "out", "--limits.decode_bytes", str(2**30)]
    assert run_with_faulty_decoder(tmp_path, words, listed) == 3
    found = pq.read_table(tmp_path / "out" / "predictions", columns=["id", "error_kind"]).to_pylist()
    assert {row["id"]: row["error_kind"] for row in found} == expected
    assert len(found) == len(expected)


@pytest.mark.slow
def test_prepare_ends_with_a_row_for_each_hostile_input(tmp_path: Path) -> None:
    expected = {f"a/{id}": kind for id, kind in hostile.write_files(tmp_path / "set" / "a").items() if kind}
    for number in range(24):
        file = tmp_path / "set" / "ab"[number % 2] / f"{number}.png"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(hostile.picture(100 + number))
    words = ["prepare", "set", "--out", "out", "--limits.decode_bytes", str(2**30)]
    assert run_with_faulty_decoder(tmp_path, words) == 0
    rejected = pq.read_table(tmp_path / "out" / "rejected.parquet").to_pylist()
    assert {row["id"]: row["error_kind"] for row in rejected} == expected
    (tmp_path / "set" / "b" / "lost.png").symlink_to("/proc/1/mem")  # which can't be read, and stays the same file
    assert run_with_faulty_decoder(tmp_path, [*words[:-4], "--out", "less"]) == 1
    assert not (tmp_path / "less" / "dataset.json").exists()
    assert run_with_faulty_decoder(tmp_path, [*words[:-4], "--out", "less", "--max_unreadable", "1"]) == 3
    rejected = pq.read_table(tmp_path / "less" / "rejected.parquet").to_pylist()
    assert {row["id"]: row["error_kind"] for row in rejected} == expected | {"b/lost.png": "unreadable"}
