"""Estimates, from the manifest of a job's inputs, of the bytes that its output takes."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from overlay.sources.manifest import Manifest
from overlay.storage.filenames import DICOM_ENDINGS
from overlay.storage.parquet import open_parquet

_SHRINKING = (*DICOM_ENDINGS, ".tif", ".tiff", ".bmp", ".dib", ".ppm", ".pgm", ".pnm", ".fits")
_SHRUNK = 0.25
"""share of a file of 16 bits or without compression that its PNG of 8 bits takes, at least"""


def image_bytes(manifest: Manifest) -> int:
    """Return about how many bytes the usable images take as PNG, by the sizes of their files; those known count."""
    total = 0.0
    for part in range(manifest.parts):
        for batch in _batches(manifest, part):
            usable = batch.filter(pc.and_(pc.is_null(batch["reason"]), pc.is_valid(batch["size"])))
            names = pc.utf8_lower(pc.coalesce(usable["member"], usable["uri"]))
            shrinks = np.zeros(len(usable), np.bool_)
            for ending in _SHRINKING:
                shrinks |= pc.ends_with(names, ending).to_numpy(zero_copy_only=False)
            sizes = usable["size"].to_numpy(zero_copy_only=False)
            total += float(np.where(shrinks, _SHRUNK * sizes, sizes).sum())
    return int(total)


def prediction_bytes(manifest: Manifest, columns: int) -> int:
    """Return about how many bytes the predictions take beside the manifest, with so many columns of numbers."""
    listed = sum(manifest.file(part).size() for part in range(manifest.parts))
    return 2 * listed + 4 * columns * manifest.rows


def _batches(manifest: Manifest, part: int) -> Iterator[pa.RecordBatch]:
    with open_parquet(manifest.file(part)) as file:
        # Group by group, in this thread: `iter_batches` makes the process keep 270 bytes an image more.
        for group in range(file.num_row_groups):
            columns = ["uri", "member", "size", "reason"]
            yield from file.read_row_group(group, columns=columns, use_threads=False).to_batches()
