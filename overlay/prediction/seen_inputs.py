"""Labelled inputs of a prediction that its model was trained on, by perceptual hash, on a bounded sample.

An accuracy over known labels says nothing about new images where the model has seen these. A prepared dataset has the
hashes of its images; of other inputs, at most 1,000 are decoded again, at a small scale and without their overlays.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from overlay.dataset.rows import hashes_of_hex
from overlay.errors import ImageError
from overlay.evaluation.report_data import SeenImages
from overlay.images.decoder_pool import decoder_pool
from overlay.images.hashing import hash_file
from overlay.images.ref import ImageRef
from overlay.models.training_hashes import SEEN_IN_TRAINING, SEEN_IN_VALIDATION, TrainingHashes
from overlay.sources.decode import DecodeLimits
from overlay.sources.manifest import Manifest
from overlay.sources.read_plan import ReadUnit
from overlay.sources.reader import Reader
from overlay.storage.path import StoragePath

MOST_LOOKED_AT = 1000
"""labelled inputs that are looked at, about, evenly from all"""


def count_seen_inputs(
    manifest: Manifest, units: Sequence[ReadUnit], known: TrainingHashes, limits: DecodeLimits
) -> SeenImages:
    """Count the labelled inputs that a model has seen, among about ``MOST_LOOKED_AT``.

    Inputs that can't be read or decoded are left out, as are those of archives that can only be read in order.

    Raises:
        OSError: the manifest can't be read.
    """
    groups = ((group, unit.in_order) for unit in units for group in unit.groups)
    chosen = islice(groups, 0, None, max(1, manifest.rows // MOST_LOOKED_AT))

    def hash_group(group_and_order: tuple[int, bool]) -> list[str]:
        group, in_order = group_and_order
        refs = [ref for ref in manifest.read_group(group) if ref.label is not None and ref.reason is None]
        if refs and refs[0].spans is None and refs[0].member is not None:
            return _stored_hashes(refs)
        return [] if in_order else _hash_images(refs, limits)

    with ThreadPoolExecutor() as threads:
        texts = [text for part in threads.map(hash_group, chosen) for text in part]
    seen = known.look_up(hashes_of_hex(texts))
    train, val = (int(np.count_nonzero(seen == kind)) for kind in (SEEN_IN_TRAINING, SEEN_IN_VALIDATION))
    return SeenImages(len(seen), train, val, known.distance)


def _stored_hashes(refs: Sequence[ImageRef]) -> list[str]:
    """Read the column ``phash`` of rows of one table; empty where it has none."""
    place = StoragePath(refs[0].uri)
    try:
        with pq.ParquetFile(place.path, filesystem=place.filesystem) as file:
            if "phash" not in file.schema_arrow.names:
                return []
            sizes = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
            starts = np.cumsum([0, *sizes])
            rows = np.array([int(ref.member or 0) for ref in refs])
            number = int(np.searchsorted(starts, rows[0], "right")) - 1  # a group of images is of one row group
            column = file.read_row_group(number, columns=["phash"])["phash"]
    except (OSError, pa.ArrowException):
        return []
    return [text for text in column.take(rows - starts[number]).to_pylist() if text is not None]


def _hash_images(refs: Sequence[ImageRef], limits: DecodeLimits) -> list[str]:
    found = []
    with Reader(limits.member_bytes) as reader:
        for ref in refs:
            try:
                data = reader.read_function(ref)(ref.name)
                found.append(decoder_pool(limits.process).run(hash_file, data, limits.max_pixels).value)
            except (ImageError, OSError):
                continue
    return found
