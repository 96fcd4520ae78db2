"""The folder of a batch prediction: its files, their columns, and when it is complete."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from overlay.config import Predict
from overlay.errors import RequestError
from overlay.inputs import MANIFEST_SCHEMA, Input, Inputs
from overlay.reading import Plan, plan
from overlay.storage import Place, write_atomically

FILES = {"manifest.parquet", "predictions", "metrics.parquet", "_SUCCESS.json"}
"""all that a folder of predictions holds"""
MANIFEST_ROW_GROUP = 32
"""inputs in one row group of the manifest, which is what one task reads"""


def schema(classes: Sequence[str]) -> pa.Schema:
    """Return the columns of a prediction; ``member`` is null outside archives, label and numbers in an error."""
    return pa.schema(
        [
            ("id", pa.string()),
            ("uri", pa.string()),
            ("member", pa.string()),
            ("status", pa.string()),
            ("error", pa.string()),
            ("label", pa.string()),
            ("confidence", pa.float32()),
            *((f"prob_{name}", pa.float32()) for name in classes),
            ("model", pa.string()),
        ]
    )


@dataclass(frozen=True)
class Request:
    """What predictions were made from; the same request gives the same rows."""

    model: str
    """sha256 of the model file"""
    listing: str
    """sha256 over the ids and places of the inputs"""
    precision: str
    max_pixels: int

    @classmethod
    def of(cls, config: Predict, model_sha256: str, found: Inputs) -> "Request":
        """Sum up a request."""
        listing = hashlib.sha256()
        for image in found.images:
            listing.update(json.dumps([image.id, image.uri, image.masks]).encode() + b"\n")
        return cls(model_sha256, listing.hexdigest(), config.precision, config.max_pixels)


@dataclass(frozen=True)
class PredictionFolder:
    """Where predictions are written, and read only once ``_SUCCESS.json`` is there."""

    path: Place

    @property
    def manifest(self) -> Place:
        """The inputs, one row each, in the order of reading."""
        return self.path / "manifest.parquet"

    @property
    def _success(self) -> Place:
        return self.path / "_SUCCESS.json"

    def check(self, request: Request, overwrite: bool) -> bool:
        """Say whether the folder holds this request's predictions already; writes nothing.

        Raises:
            RequestError: it holds something else, or the predictions of another request that may not be overwritten.
        """
        if self.path.is_file():
            raise RequestError(f"--out {self.path} is a file; name a folder")
        # Without what a killed process left.
        there = {name for name in self.path.children() if not (name.startswith(".") and name.endswith(".tmp"))}
        # A prepared dataset has a manifest too, so everything else there must be ours as well.
        if strange := there - FILES if self.manifest.is_file() else there:
            raise RequestError(f"--out {self.path} holds something else ({min(strange)}); choose an empty folder")
        if overwrite or not self._success.is_file():
            return False
        before = json.loads(self._success.read_bytes())["request"]
        for name, value in asdict(request).items():
            if before.get(name) != value:
                raise RequestError(
                    f"--out {self.path} holds predictions with another {name}; choose another folder, or --overwrite"
                )
        return True

    def begin(self, found: Inputs) -> Plan[Input]:
        """Clear away what is not complete, or is to be replaced, write the manifest, and return what is in it."""
        self.path.make_folder()
        self._success.remove()
        # Before the folder of the parts: without a manifest, nothing here would be known for ours.
        reading = plan(found.images, MANIFEST_ROW_GROUP)
        with write_atomically(self.manifest) as temporary, pq.ParquetWriter(temporary, MANIFEST_SCHEMA) as writer:
            for group in reading.groups:
                writer.write_table(pa.Table.from_pylist([asdict(image) for image in group], schema=MANIFEST_SCHEMA))
        (self.path / "predictions").remove()
        (self.path / "predictions").make_folder()
        return reading

    def write_part(self, part: int, rows: pa.Table) -> None:
        """Write one part of the output, whole or not at all."""
        with write_atomically(self.path / "predictions" / f"part-{part:05d}.parquet") as temporary:
            pq.write_table(rows, temporary)

    def commit(self, request: Request, summary: Mapping[str, tuple[float, str]]) -> None:
        """Write metrics.parquet, and then ``_SUCCESS.json``."""
        names, values, units = zip(
            *((name, float(value), unit) for name, (value, unit) in summary.items()), strict=True
        )
        with write_atomically(self.path / "metrics.parquet") as temporary:
            pq.write_table(pa.table({"name": names, "value": values, "unit": units}), temporary)
        parts = [name for name in (self.path / "predictions").children() if name.startswith("part-")]
        success = {"rows": int(summary["images"][0]), "files": parts, "request": asdict(request)}
        with write_atomically(self._success) as temporary:
            temporary.write_text(json.dumps(success, indent=2) + "\n")
