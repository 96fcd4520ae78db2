import io
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.dataset.schema import DATASET_SCHEMA
from overlay.storage.parquet import read_row_range, row_group_starts, write_rows


def row(number: int, size: int = 10) -> dict[str, Any]:
    id = f"benign/{number}.png"
    return {"id": id, "image": {"bytes": bytes(size), "path": id}, "label": "benign", "width": 4, "height": 3}


def test_row_groups_are_small_in_rows_and_in_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("overlay.storage.parquet.ROW_GROUP_BYTES", 250)
    with write_rows(tmp_path / "part.parquet", DATASET_SCHEMA) as rows:
        for number in range(64):
            rows.write(row(number, size=1))
        for number in range(64, 70):
            rows.write(row(number, size=100))
    metadata = pq.read_metadata(tmp_path / "part.parquet")
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [64, 3, 3]
    columns = {metadata.row_group(0).column(i).path_in_schema: i for i in range(metadata.num_columns)}
    assert metadata.row_group(0).column(columns["image.bytes"]).compression == "UNCOMPRESSED"
    table = pq.read_table(tmp_path / "part.parquet")
    assert table.schema.equals(DATASET_SCHEMA, check_metadata=True)
    assert table["id"].to_pylist() == [f"benign/{number}.png" for number in range(70)]
    assert table["mask_extent"].null_count == 70


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.data())
def test_consecutive_rows_are_read_from_their_row_groups(sizes: list[int], data: st.DataObject) -> None:
    buffer, starts = io.BytesIO(), np.cumsum([0, *sizes]).tolist()
    with pq.ParquetWriter(buffer, pa.schema([("row", pa.int64()), ("square", pa.int64())])) as writer:
        for start, end in pairwise(starts):
            writer.write_table(pa.table({"row": range(start, end), "square": [row**2 for row in range(start, end)]}))
    with pq.ParquetFile(buffer) as file:
        assert row_group_starts(file).tolist() == starts
        first = data.draw(st.integers(0, starts[-1] - 1))
        rows = range(first, data.draw(st.integers(first + 1, starts[-1])))
        assert read_row_range(file, rows)["row"].to_pylist() == list(rows)
        assert read_row_range(file, rows, ["square"]).to_pydict() == {"square": [row**2 for row in rows]}


def test_a_file_that_fails_in_the_middle_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(pa.ArrowInvalid), write_rows(tmp_path / "part.parquet", DATASET_SCHEMA) as rows:
        rows.write(row(1) | {"width": "wide"})
    assert list(tmp_path.iterdir()) == []


def test_tables_are_gathered_into_row_groups(tmp_path: Path) -> None:
    table = pa.Table.from_pylist([row(number) for number in range(40)], schema=DATASET_SCHEMA)
    with write_rows(tmp_path / "part.parquet", DATASET_SCHEMA) as rows:
        for start in range(0, 40, 8):
            rows.write_table(table.slice(start, 8))
            rows.write_table(table.slice(start, 8))
        rows.write(row(99))
    metadata = pq.read_metadata(tmp_path / "part.parquet")
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [64, 17]
    ids = pq.read_table(tmp_path / "part.parquet")["id"].to_pylist()
    assert ids[:17] == [f"benign/{number}.png" for number in [*range(8), *range(8), 8]]
    assert ids[-1] == "benign/99.png"
