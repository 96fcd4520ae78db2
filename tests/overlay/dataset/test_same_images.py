from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from overlay.dataset.prepared import PreparedDataset
from overlay.dataset.same_images import check_same_images, groups_by_id
from overlay.errors import RequestError
from tests.overlay.dataset.test_card import CARD

ROWS = [{"id": id, "label": "benign", "group": f"g{id}", "fold": 0} for id in "ab"]


def dataset(folder: Path, rows: list[dict[str, object]]) -> PreparedDataset:
    (folder / "data").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / "data" / "part-00000.parquet")
    return PreparedDataset(str(folder), replace(CARD, parts=1))


def test_datasets_that_differ_in_pixels_only_are_the_same(tmp_path: Path) -> None:
    first, second = dataset(tmp_path / "x", ROWS), dataset(tmp_path / "y", ROWS[::-1])
    check_same_images(first, second)
    assert groups_by_id(second) == {"a": "ga", "b": "gb"}


@pytest.mark.parametrize("column", ["label", "group", "fold"])
def test_the_first_difference_is_named(tmp_path: Path, column: str) -> None:
    changed = [ROWS[0], ROWS[1] | {column: 7 if column == "fold" else "other"}]
    with pytest.raises(RequestError, match=f"differ in the {column} of b: "):
        check_same_images(dataset(tmp_path / "x", ROWS), dataset(tmp_path / "y", changed))


def test_an_image_of_one_only_is_named(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"y has the image c, and .*x does not"):
        check_same_images(dataset(tmp_path / "x", ROWS), dataset(tmp_path / "y", [*ROWS, ROWS[0] | {"id": "c"}]))
