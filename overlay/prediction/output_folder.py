"""Output folder of a batch prediction: request, manifest, committed parts, resume, and completion.

``request.json`` is written first: the model, the inputs and the options. ``manifest/`` holds the inputs, and
``predictions/`` their rows, part for part; a part is written atomically. ``_SUCCESS.json`` is written last: with it,
every input has exactly one row. Rows of incomplete parts are saved in ``.work/``, so that a killed process loses few.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from overlay.config import Predict, dotted
from overlay.errors import RequestError
from overlay.sources.manifest import Manifest, ManifestListing, first_difference, part_name, publish_manifest
from overlay.storage.atomic import write_atomically, write_text_atomically
from overlay.storage.filenames import LOG_FILE
from overlay.storage.parquet import open_parquet
from overlay.storage.path import StoragePath

PREDICTION_FILES = {
    "request.json",
    "manifest",
    "predictions",
    ".work",
    "metrics.parquet",
    "_SUCCESS.json",
    "wandb",
    LOG_FILE,
}
"""names of all files and folders in a folder of predictions"""
ELSEWHERE = (
    *("model", "inputs", "allow_root", "out", "tracking", "batch_size", "device", "actors", "retry_errors"),
    *("overwrite", "cluster", "log_format"),
)
"""options that don't change the rows, or are in the request by other names"""
FolderState = Literal["new", "begun", "complete"]
"""progress of a request in its folder"""


@dataclass(frozen=True)
class PredictionRequest:
    """Model, inputs and options of a prediction; the same request gives the same rows."""

    model: str
    """SHA-256 of the model file"""
    inputs: str
    """fingerprint of the listing"""
    rows: int
    options: dict[str, Any]
    """dotted name -> value"""
    computed: str = ""
    """engine and device, such as "torch on cpu", with "auto" resolved"""

    @classmethod
    def create(cls, config: Predict, model_sha256: str, listing: ManifestListing) -> "PredictionRequest":
        """Create a request from the options, the SHA-256 of the model file and the listing of the inputs."""
        options = {name: value for name, value in asdict(config).items() if name not in ELSEWHERE}
        return cls(model_sha256, listing.fingerprint, listing.manifest.rows, dotted(options))


@dataclass(frozen=True)
class PredictionFolder:
    """Output folder of predictions; readers wait for ``_SUCCESS.json``."""

    path: StoragePath

    @property
    def manifest(self) -> StoragePath:
        """Folder of the manifest of the inputs."""
        return self.path / "manifest"

    @property
    def _success(self) -> StoragePath:
        return self.path / "_SUCCESS.json"

    @property
    def _request(self) -> StoragePath:
        return self.path / "request.json"

    @property
    def _work(self) -> StoragePath:
        return self.path / ".work"

    def check(
        self, request: PredictionRequest, listed: Manifest, *, overwrite: bool, retry_errors: bool = False
    ) -> FolderState:
        """Return the progress of a request in this folder; writes nothing.

        With ``retry_errors``, inputs that were missing before may exist now.

        Raises:
            RequestError: the folder is a file, holds other files, or holds predictions of another request and
                ``overwrite`` is false.
        """
        if self.path.is_file():
            raise RequestError(f"--out {self.path} is a file; name a folder")
        there = set(self.path.contents())
        # Without request.json the files can't be recognised as ours.
        if strange := there - PREDICTION_FILES if self._request.is_file() else there:
            raise RequestError(f"--out {self.path} holds something else ({min(strange)}); choose an empty folder")
        if overwrite or not there:
            return "new"
        if difference := self._difference(request, listed, retry_errors):
            raise RequestError(
                f"--out {self.path} holds predictions of another request: {difference}; choose another folder, or "
                "--overwrite"
            )
        return "complete" if self._success.is_file() else "begun"

    def begin(self, request: PredictionRequest, listing: ManifestListing, *, anew: bool) -> Manifest:
        """Write the request and the manifest, and delete temporary files; with ``anew``, also all earlier rows.

        Raises:
            RequestError: the existing rows were computed by another engine or on another kind of device.
            OSError: a file can't be written or deleted.
        """
        if not anew and (before := self._stored_request().computed) != request.computed:
            raise RequestError(
                f"--out {self.path} holds rows computed by {before}, and here it would be {request.computed}; ask for "
                "the same with --engine and --device, or --overwrite"
            )
        self.path.make_folder()
        self._success.remove()
        (self.path / "metrics.parquet").remove()
        if anew:
            for folder in (self.path / "predictions", self._work, self.manifest):
                folder.remove()
            write_text_atomically(self._request, _json(request))
        for folder in (self.path / "predictions", self._work, self.manifest):
            folder.make_folder()
            for name in folder.children():
                if name.endswith(".tmp"):
                    (folder / name).remove()
        changed = self._stored_request() != request  # files have appeared that were missing
        manifest = publish_manifest(listing.manifest, self.manifest, replace=changed)
        if changed:
            write_text_atomically(self._request, _json(request))
        return manifest

    def committed(self) -> set[int]:
        """Return the numbers of the committed parts."""
        return {int(name[5:-8]) for name in (self.path / "predictions").children() if name.startswith("part-")}

    def part(self, part: int) -> StoragePath:
        """Return the path of a part."""
        return self.path / "predictions" / part_name(part)

    def write_part(self, part: int, rows: pa.Table) -> None:
        """Write one part of the output atomically, or replace it."""
        with write_atomically(self.part(part)) as temporary:
            pq.write_table(rows, temporary)

    def save_rows(self, number: int, rows: pa.Table) -> None:
        """Save rows of incomplete parts under a number, atomically."""
        with write_atomically(self._saved_path(number)) as temporary:
            pq.write_table(rows, temporary)

    def delete_rows(self, number: int) -> None:
        """Delete saved rows."""
        self._saved_path(number).remove()

    def saved_rows(self) -> Iterator[tuple[int, pa.Table]]:
        """Yield the number and the rows of each saved file."""
        for name in self._work.children():
            if name.startswith("rows-"):
                with open_parquet(self._work / name) as file:
                    yield int(name[5:-8]), file.read()

    def commit(self, request: PredictionRequest, summary: Mapping[str, tuple[float, str]]) -> None:
        """Write ``metrics.parquet`` and then ``_SUCCESS.json``; ``summary``: name -> value and unit."""
        names, values, units = zip(
            *((name, float(value), unit) for name, (value, unit) in summary.items()), strict=True
        )
        with write_atomically(self.path / "metrics.parquet") as temporary:
            pq.write_table(pa.table({"name": names, "value": values, "unit": units}), temporary)
        self._work.remove()
        files = [part_name(part) for part in sorted(self.committed())]
        write_text_atomically(self._success, json.dumps({"files": files, **asdict(request)}, indent=2) + "\n")

    def unreadable(self) -> int:
        """Return how many inputs of a complete prediction could not be read."""
        metrics = open_parquet(self.path / "metrics.parquet").read(columns=["name", "value"]).to_pylist()
        return int(next((row["value"] for row in metrics if row["name"] == "unreadable"), 0))

    def _saved_path(self, number: int) -> StoragePath:
        return self._work / f"rows-{number:06d}.parquet"

    def _stored_request(self) -> PredictionRequest:
        return PredictionRequest(**json.loads(self._request.read_bytes()))

    def _difference(self, now: PredictionRequest, listed: Manifest, retry_errors: bool) -> str | None:
        before = self._stored_request()
        if before.model != now.model:
            return f"the model's sha256 is {before.model[:12]} there and {now.model[:12]} here"
        for name, value in now.options.items():
            if before.options.get(name) != value:
                return f"{name} is {before.options.get(name)} there and {value} here"
        if before.inputs == now.inputs:
            return None
        first = first_difference(listed, self.manifest, appeared=retry_errors)
        if first is None:
            return None
        return f"the inputs were {before.rows} and are {now.rows}, and the first that differs: {first}"


def _json(request: PredictionRequest) -> str:
    return json.dumps(asdict(request), indent=2) + "\n"
