"""Reading of training images from shards, without Ray."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from overlay.config import MAX_PIXELS, Input
from overlay.dataset.schema import DATASET_SCHEMA
from overlay.storage.parquet import write_rows
from overlay.storage.path import StoragePath
from overlay.training.sampler import SINGLE_WORKER, WindowedSamplePlan, Worker
from pipelines.training import shard_source
from pipelines.training.shard_source import ShardSource, read_stored

SHARDS, SHARD_ROWS = 8, 256
INPUT = Input(size=32)


class CountingFile(io.BytesIO):
    """File that counts the bytes that are read of it."""

    count = 0

    def read(self, size: int | None = -1, /) -> bytes:
        """Read, and count."""
        data = super().read(size)
        CountingFile.count += len(data)
        return data


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> ShardSource:
    """Shards of four row groups; of each three rows, two are of the split. An image's grey value says where it lies."""
    folder = tmp_path_factory.mktemp("shards")
    files, rows = [], []
    for shard in range(SHARDS):
        file = folder / f"part-{shard:05d}.parquet"
        with write_rows(file, DATASET_SCHEMA) as written:
            for row in range(SHARD_ROWS):
                written.write({"id": f"{shard}/{row}", "image": {"bytes": _png(shard, row), "path": f"{row}.png"}})
        files.append(StoragePath.of(file))
        rows.append(np.flatnonzero(np.arange(SHARD_ROWS) % 3 != 2))
    return ShardSource(files, rows, np.zeros(sum(map(len, rows)), np.int64), INPUT, MAX_PIXELS)


def _png(shard: int, row: int) -> bytes:
    buffer = io.BytesIO()
    pixels = np.full((32, 32, 3), (shard, row, 7), np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=0)  # 3 KB each: most of a shard
    return buffer.getvalue()


def _plan(source: ShardSource, workers: int) -> WindowedSamplePlan:
    sizes = tuple(map(len, source.rows))
    window = 4 * workers
    return WindowedSamplePlan(sum(sizes), 64, epochs=1, seed=1, shards=sizes, window=window, parts=workers)


def test_rows_are_read_from_their_row_groups_only(source: ShardSource, monkeypatch: pytest.MonkeyPatch) -> None:
    groups: list[int] = []

    class Recording(pq.ParquetFile):  # type: ignore[misc]
        def read_row_group(self, group: int, columns: list[str]) -> pa.Table:
            groups.append(group)
            return super().read_row_group(group, columns=columns)

    monkeypatch.setattr(shard_source, "open_parquet", lambda file: Recording(file.path))
    names, images = read_stored(source.files[3], np.array([0, 63, 64, 250, 255]))
    assert names == ["3/0", "3/63", "3/64", "3/250", "3/255"]
    assert images == [_png(3, row) for row in (0, 63, 64, 250, 255)]
    assert groups == [0, 1, 3]


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_the_workers_together_read_the_shards_about_once(
    workers: int, source: ShardSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_counted(file: StoragePath) -> pq.ParquetFile:
        return pq.ParquetFile(CountingFile(Path(file.path).read_bytes()))

    stored = sum(Path(file.path).stat().st_size for file in source.files)
    plan = _plan(source, workers)
    whole = dict(enumerate(source.read(plan, range(plan.steps), SINGLE_WORKER)))
    monkeypatch.setattr(shard_source, "open_parquet", open_counted)
    monkeypatch.setattr(CountingFile, "count", 0)
    parts: dict[int, list[np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]] = {step: [] for step in whole}
    for rank in range(workers):
        for window in plan.windows(0):
            for step, images in zip(window, source.read(plan, window, Worker(rank, workers)), strict=True):
                parts[step].append(images)
    for step, images in whole.items():
        assert np.array_equal(np.concatenate(parts[step]), images)
        samples = plan.batch(step)
        shard, row = np.divmod(samples, len(source.rows[0]))
        expected = np.stack([shard, source.rows[0][row], np.full(len(samples), 7)], axis=1)
        assert np.array_equal(images[:, 0, 0], expected)
    # Row groups at the borders of the parts are read twice, and each file's footer by each who reads of it.
    assert 0.9 * stored <= CountingFile.count <= 1.4 * stored
