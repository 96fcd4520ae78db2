from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from overlay.cli.main import main
from overlay.config import Duplicates, Prepare, Split
from overlay.errors import RequestError, WorkError
from overlay.images.codec import encode_png
from pipelines import check, prepare


def image(seed: int) -> bytes:
    return encode_png(np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8))


def write(folder: Path, splits: str = "train train val test", **columns: list[object]) -> Path:
    """Write a dataset of somebody else: noise, labels a and b in turn."""
    folder.mkdir(exist_ok=True)
    sides = splits.split()
    table = {"image": [image(i) for i in range(len(sides))], "label": ["ab"[i % 2] for i in range(len(sides))]}
    pq.write_table(pa.table(table | {"split": sides} | columns), folder / "all.parquet", row_group_size=3)
    return folder


def test_a_clean_dataset(tmp_path: Path, ray_session: None, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(tmp_path / "set", "train train val val test test")
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")}
    assert main(["prepare", "--check", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "is clean: nothing lies on two sides of the split" in said
    assert "│ a     │ 1 (50.0%) │ 1 (50.0%) │ 1 (50.0%) │ 3 (50.0%) │" in said
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")} == before


def test_copies_on_two_sides(tmp_path: Path, ray_session: None, capsys: pytest.CaptureFixture[str]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    darker = encode_png((pixels * 0.9).astype(np.uint8))
    images: list[object] = [{"bytes": data, "path": None} for data in (image(0), image(0), darker, image(3))]
    folder = write(tmp_path / "set", image=images, id=["w", "x", "y", "z"])
    assert main(["prepare", "--check", str(folder)]) == 1
    said = capsys.readouterr()
    assert "leaks: 2 pairs of near-duplicates, 0 of them identical, and 0 groups lie on two sides" in said.err
    assert "different labels: w (a) and x (b): identical pixels" in said.out
    assert "in train and val: w (a) and y (a): distance" in said.out
    rows = [line.split("│")[1:-1] for line in said.out.splitlines() if line.startswith("│ pairs")]
    assert [[cell.strip() for cell in row] for row in rows] == [
        ["pairs of near-duplicates", "3", "2"],
        ["pairs with identical pixels", "1", "0"],
        ["pairs with different labels", "2", ""],
    ]
    with pytest.raises(WorkError, match="leaks"):
        check.run(Prepare(check=str(folder / "all.parquet"), duplicates=Duplicates(distance=64)))


def test_groups_on_two_sides(tmp_path: Path, ray_session: None) -> None:
    folder = write(tmp_path / "set", "train train val test", group=["p", "q", "p", None], id=["a1", "a2", "b1", "b2"])
    with pytest.raises(WorkError, match=r"0 pairs .* and 1 groups lie on two sides"):
        check.run(Prepare(check=str(folder)))
    with pytest.raises(WorkError, match="and 2 groups lie on two sides"):
        check.run(Prepare(check=str(folder), split=Split(group_by=r"\d")))


def test_broken_images_and_repeated_ids(tmp_path: Path, ray_session: None, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(tmp_path / "set", image=[image(0), b"", image(2), image(3)], id=["x"] * 4)
    check.run(Prepare(check=str(folder)))
    assert "1 images can't be read; the first: x: empty file" in capsys.readouterr().out


@pytest.mark.slow
def test_our_own_is_clean(phantoms: Path, tmp_path: Path, ray_session: None) -> None:
    dataset = prepare.run(Prepare([str(phantoms)], str(tmp_path / "out")))
    check.run(Prepare(check=dataset.path))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"image": [1, 2]}, "the column image of .* is int64; it must hold the bytes"),
        ({"label": None}, "has no column label; a dataset needs image, label, split"),
        (None, "holds no Parquet file"),
    ],
)
def test_what_is_no_dataset(tmp_path: Path, columns: dict[str, list[object] | None] | None, message: str) -> None:
    if columns is not None:
        table = {"image": [b"", b""], "label": ["a", "b"], "split": ["train", "test"]} | columns
        kept = {name: value for name, value in table.items() if value is not None}
        pq.write_table(pa.table(kept), tmp_path / "x.parquet")
    with pytest.raises(RequestError, match=message):
        check.run(Prepare(check=str(tmp_path)))


def test_no_such_place_and_not_a_table(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="check /nowhere is not there; check the path"):
        check.run(Prepare(check="/nowhere"))
    (tmp_path / "x.parquet").write_text("no table")
    with pytest.raises(RequestError, match=r"x\.parquet can't be read as Parquet"):
        check.run(Prepare(check=str(tmp_path)))


def test_check_stands_alone() -> None:
    with pytest.raises(RequestError, match="leave sources and --out away"):
        Prepare(["s"], "o", check="d")
    with pytest.raises(RequestError, match="not given: out; the order is: overlay prepare SOURCE"):
        Prepare(["s"])
