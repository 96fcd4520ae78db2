"""The folder of a batch prediction: its files, their columns, and when it is complete."""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from overlay.config import Predict
from overlay.errors import RequestError
from overlay.inputs import MANIFEST_SCHEMA, Inputs
from overlay.storage import write_atomically

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

    path: Path

    @property
    def manifest(self) -> Path:
        """The inputs, one row each."""
        return self.path / "manifest.parquet"

    @property
    def _success(self) -> Path:
        return self.path / "_SUCCESS.json"

    def check(self, request: Request, overwrite: bool) -> bool:
        """Say whether the folder holds this request's predictions already; writes nothing.

        Raises:
            RequestError: it holds something else, or the predictions of another request that may not be overwritten.
        """
        if self.path.is_file():
            raise RequestError(f"--out {self.path} is a file; name a folder")
        there = {entry.name for entry in self.path.iterdir()} if self.path.exists() else set()
        if there and not self.manifest.exists():
            raise RequestError(f"--out {self.path} holds something else ({min(there)}); choose an empty folder")
        if overwrite or not self._success.exists():
            return False
        before = json.loads(self._success.read_text())["request"]
        for name, value in asdict(request).items():
            if before.get(name) != value:
                raise RequestError(
                    f"--out {self.path} holds predictions with another {name}; choose another folder, or --overwrite"
                )
        return True

    def begin(self, found: Inputs) -> None:
        """Clear away what is not complete, or is to be replaced, and write the manifest."""
        self._success.unlink(missing_ok=True)
        shutil.rmtree(self.path / "predictions", ignore_errors=True)
        (self.path / "predictions").mkdir(parents=True)
        table = pa.Table.from_pylist([asdict(image) for image in found.images], schema=MANIFEST_SCHEMA)
        with write_atomically(self.manifest) as temporary:
            pq.write_table(table, temporary, row_group_size=MANIFEST_ROW_GROUP)

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
        parts = sorted(file.name for file in (self.path / "predictions").glob("part-*.parquet"))
        success = {"rows": int(summary["images"][0]), "files": parts, "request": asdict(request)}
        with write_atomically(self._success) as temporary:
            temporary.write_text(json.dumps(success, indent=2) + "\n")
