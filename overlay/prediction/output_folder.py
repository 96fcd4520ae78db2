"""The folder of a batch prediction: what was asked for, what is committed, and when it is complete.

``request.json`` comes first and says what the rows are made from; ``manifest/`` holds the inputs and ``predictions/``
their rows, part for part. A part appears whole or not at all. ``_SUCCESS.json`` comes last: with it, every input has
exactly one row. Rows of parts that are not complete wait in ``.work/``, so that little is lost with a killed process.
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
from overlay.storage.parquet import open_parquet
from overlay.storage.path import StoragePath

PREDICTION_FILES = {"request.json", "manifest", "predictions", ".work", "metrics.parquet", "_SUCCESS.json", "wandb"}
"""all that a folder of predictions holds"""
ELSEWHERE = ("model", "inputs", "out", "tracking", "batch_size", "device", "actors", "retry_errors", "overwrite")
"""options that don't change the rows, or are in the request by other names"""
FolderState = Literal["new", "begun", "complete"]


@dataclass(frozen=True)
class PredictionRequest:
    """What predictions are made from; the same request gives the same rows."""

    model: str
    """sha256 of the model file"""
    inputs: str
    """fingerprint of the listing"""
    rows: int
    options: dict[str, Any]
    """by their dotted names"""
    computed: str = ""
    """the engine and the device that "auto" came to"""

    @classmethod
    def of(cls, config: Predict, model_sha256: str, listing: ManifestListing) -> "PredictionRequest":
        """Sum up a request."""
        options = {name: value for name, value in asdict(config).items() if name not in ELSEWHERE}
        return cls(model_sha256, listing.fingerprint, listing.manifest.rows, dotted(options))


@dataclass(frozen=True)
class PredictionFolder:
    """Where predictions are written, and read only once ``_SUCCESS.json`` is there."""

    path: StoragePath

    @property
    def manifest(self) -> StoragePath:
        """The folder of the inputs, one row each."""
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
        """Say how far this request is; writes nothing.

        With ``retry_errors``, inputs may be there now that were missing.

        Raises:
            RequestError: it holds something else, or the predictions of another request that may not be overwritten.
        """
        if self.path.is_file():
            raise RequestError(f"--out {self.path} is a file; name a folder")
        # Without what a killed process left.
        there = {name for name in self.path.children() if not (name.startswith(".") and name.endswith(".tmp"))}
        # Without its request, nothing here would be known for ours.
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
        """Write the request and the manifest, and clear away what is not complete or is to be replaced.

        Raises:
            RequestError: the rows that are there were computed by another engine or on another kind of device.
        """
        if not anew and (before := self._before().computed) != request.computed:
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
        changed = self._before() != request  # files have appeared that were missing
        manifest = publish_manifest(listing.manifest, self.manifest, replace=changed)
        if changed:
            write_text_atomically(self._request, _json(request))
        return manifest

    def committed(self) -> set[int]:
        """Return the parts that are complete."""
        return {int(name[5:-8]) for name in (self.path / "predictions").children() if name.startswith("part-")}

    def part(self, part: int) -> StoragePath:
        """Return the file of a part."""
        return self.path / "predictions" / part_name(part)

    def write_part(self, part: int, rows: pa.Table) -> None:
        """Write one part of the output, whole or not at all, in place of what it was before."""
        with write_atomically(self.part(part)) as temporary:
            pq.write_table(rows, temporary)

    def save(self, number: int, rows: pa.Table) -> None:
        """Keep rows of parts that are not complete."""
        with write_atomically(self._saved(number)) as temporary:
            pq.write_table(rows, temporary)

    def forget(self, number: int) -> None:
        """Delete rows that were kept."""
        self._saved(number).remove()

    def saved(self) -> Iterator[tuple[int, pa.Table]]:
        """Yield what was kept: its number, and the rows."""
        for name in self._work.children():
            if name.startswith("rows-"):
                with open_parquet(self._work / name) as file:
                    yield int(name[5:-8]), file.read()

    def commit(self, request: PredictionRequest, summary: Mapping[str, tuple[float, str]]) -> None:
        """Write metrics.parquet, and then ``_SUCCESS.json``."""
        names, values, units = zip(
            *((name, float(value), unit) for name, (value, unit) in summary.items()), strict=True
        )
        with write_atomically(self.path / "metrics.parquet") as temporary:
            pq.write_table(pa.table({"name": names, "value": values, "unit": units}), temporary)
        self._work.remove()
        files = [part_name(part) for part in sorted(self.committed())]
        write_text_atomically(self._success, json.dumps({"files": files, **asdict(request)}, indent=2) + "\n")

    def _saved(self, number: int) -> StoragePath:
        return self._work / f"rows-{number:06d}.parquet"

    def _before(self) -> PredictionRequest:
        return PredictionRequest(**json.loads(self._request.read_bytes()))

    def _difference(self, now: PredictionRequest, listed: Manifest, retry_errors: bool) -> str | None:
        before = self._before()
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
