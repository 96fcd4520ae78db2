"""Rows of a prepared dataset by split, without the images: groups, folds, perceptual hashes."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset
from numpy.typing import NDArray

from overlay.dataset.prepared import PreparedDataset
from overlay.duplicates.hamming import parse_hashes
from overlay.duplicates.multi_index import Hashes


def open_tables(dataset: PreparedDataset) -> pyarrow.dataset.Dataset:
    """Open the Parquet files of a prepared dataset, which hold the images, as one table; reads no rows."""
    return pyarrow.dataset.dataset(dataset.data_files(), filesystem=dataset.filesystem)


def split_filter(dataset: PreparedDataset, split: str) -> pc.Expression:
    """Return the filter of a split's rows for a scan of `open_tables`."""
    chosen = dataset.rows_of(split)
    return pc.field(chosen.column).isin(chosen.value_set)


def read_rows(dataset: PreparedDataset, split: str, columns: Sequence[str]) -> pa.Table:
    """Read some columns of a split's rows, sorted by ``id``, which is among them."""
    rows = open_tables(dataset).to_table(columns=["id", *columns], filter=split_filter(dataset, split))
    return rows.take(pc.sort_indices(rows["id"]))


def read_hashes(dataset: PreparedDataset, split: str) -> Hashes:
    """Read the perceptual hashes of a split's images, in the order of their ids, uint64 (n, 4).

    They are of the images before their overlays are drawn.
    """
    return hashes_of_hex(read_rows(dataset, split, ["phash"])["phash"].to_pylist())


def hashes_of_hex(texts: Sequence[str]) -> Hashes:
    """Return hashes given as 64 hexadecimal digits each, uint64 (n, 4)."""
    return parse_hashes(
        pa.chunked_array([pa.array([bytes.fromhex(text) for text in texts], pa.binary(32))], pa.binary(32))
    )


def group_codes(groups: Sequence[str | None], ids: Sequence[str]) -> NDArray[np.int64]:
    """Return an integer for each row, (n,), equal for rows of one group; a row without one is a group of its own."""
    names = [f"id {own}" if group is None else f"group {group}" for group, own in zip(groups, ids, strict=True)]
    codes: NDArray[np.int64] = np.unique(np.array(names), return_inverse=True)[1].astype(np.int64)
    return codes
