from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from overlay.dataset.folds import count_folds, select_fold, side_of_fold
from overlay.dataset.prepared import PreparedDataset, RowSelection
from overlay.errors import RequestError
from tests.overlay.dataset.test_card import CARD


def dataset_of(folder: Path, folds: list[int | None]) -> PreparedDataset:
    """Two images a fold, benign and malignant, in two shards."""
    (folder / "data").mkdir()
    for part in range(2):
        labels = ["benign" if part == 0 else "malignant"] * len(folds)
        table = pa.table({"label": labels, "fold": pa.array(folds, pa.int32())})
        pq.write_table(table, folder / "data" / f"part-{part:05d}.parquet")
    return PreparedDataset(str(folder), replace(CARD, classes=["benign", "malignant"], parts=2))


def test_each_fold_is_tested_once_and_validated_once() -> None:
    for folds in (3, 5, 10):
        for fold in range(folds):
            sides = [side_of_fold(fold, run, folds) for run in range(folds)]
            assert (sides.count("test"), sides.count("val"), sides.count("train")) == (1, 1, folds - 2)


def test_a_fold_divides_the_dataset_anew(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path, [0, 1, 2, 3, 3])
    assert count_folds(dataset) == 4
    assert dataset.rows_of("val") == RowSelection("split", ("val",))
    chosen = select_fold(dataset, 3)
    assert chosen.rows_of("test") == RowSelection("fold", (3,))
    assert chosen.rows_of("val") == RowSelection("fold", (0,))
    assert chosen.rows_of("train") == RowSelection("fold", (1, 2))
    assert chosen.rows_of("test").value_set == pa.array([3], pa.int32())
    assert chosen.card.counts == {name: {"train": 2, "val": 1, "test": 2} for name in ("benign", "malignant")}
    assert chosen.card.fingerprint == dataset.card.fingerprint


def test_a_dataset_without_folds_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"has no folds; prepare it with --split.folds 5"):
        select_fold(dataset_of(tmp_path, [None, None, None]), 0)


@pytest.mark.parametrize("run", [-1, 3])
def test_a_fold_that_is_not_there_is_refused(tmp_path: Path, run: int) -> None:
    with pytest.raises(RequestError, match=rf"fold is {run}, and .* has the folds 0 to 2"):
        select_fold(dataset_of(tmp_path, [0, 1, 2]), run)
