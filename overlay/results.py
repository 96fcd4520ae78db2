"""From scored images to rows, each exactly once, and from rows to parts.

Rows come in any order. A part is committed once all its rows are there; what waits for that is saved every few seconds,
so a process that is killed loses no more than these.
"""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from overlay.decoding import Columns
from overlay.manifest import Manifest
from overlay.predictions import PredictionFolder, schema
from overlay.sources.read_plan import Unit
from overlay.sources.reader import UNREADABLE
from overlay.storage.parquet import open_parquet

SAVE_SECONDS = 5.0
"""longest time for which finished rows are in memory only"""


@dataclass(frozen=True)
class Layout:
    """The columns of the output."""

    classes: Sequence[str]
    model: str
    """sha256 of the model file"""
    top_k: int | None = None
    entropy: bool = False
    uncertain_below: float | None = None
    """a row whose confidence is lower is uncertain; there is no such column where it is None"""

    def scored(self, block: Columns) -> pa.Table:
        """Turn ``row``, ``reason``, ``probabilities`` (n, classes) and, where given, ``embedding`` (n, d) and
        ``precision`` of a batch into columns; ``row`` stays, so that the inputs' own can be put beside them.
        """
        reasons, probabilities = block["reason"], block["probabilities"]
        wrong = reasons != ""
        best = np.where(wrong[:, None], 0, probabilities).argmax(axis=1)
        columns: dict[str, Any] = {
            "row": block["row"],
            "status": np.where(wrong, "error", "ok"),
            "error": pa.array(reasons, pa.string(), mask=~wrong),
            "label": pa.array(np.array(self.classes)[best], pa.string(), mask=wrong),
            "confidence": pa.array(probabilities.max(axis=1), mask=wrong),
        }
        columns |= {f"prob_{name}": pa.array(probabilities[:, i], mask=wrong) for i, name in enumerate(self.classes)}
        if self.top_k is not None:
            order = np.argsort(-probabilities, axis=1, kind="stable")[:, : self.top_k]
            columns["top_labels"] = _lists(np.array(self.classes)[order], wrong)
            columns["top_probabilities"] = _lists(np.take_along_axis(probabilities, order, axis=1), wrong)
        if self.entropy:
            terms = np.where(probabilities > 0, probabilities * np.log(np.maximum(probabilities, 1e-45)), 0)
            columns["entropy"] = pa.array(-terms.sum(axis=1), mask=wrong)
        if self.uncertain_below is not None:
            columns["uncertain"] = pa.array(probabilities.max(axis=1) < self.uncertain_below, mask=wrong)
        if "embedding" in block:
            columns["embedding"] = _lists(block["embedding"], wrong)
        if "precision" in block:
            columns["precision"] = pa.array(block["precision"], pa.string(), mask=wrong)
        return pa.table(columns)

    def finished(self, scored: pa.Table, inputs: pa.Table) -> pa.Table:
        """Put the columns of a part's inputs before those of its rows, both in the same order."""
        table = scored.drop_columns("row")
        for name in ("member", "uri", "id"):
            table = table.add_column(0, name, inputs[name])
        table = table.append_column("model", pa.array([self.model] * len(table)))
        known = schema(self.classes)
        return table.cast(
            pa.schema([known.field(name) if name in known.names else table.field(name) for name in table.column_names])
        )


class Results:
    """Takes rows as they come, commits parts, and knows what is left."""

    def __init__(self, folder: PredictionFolder, manifest: Manifest, layout: Layout, *, retry_errors: bool) -> None:
        self._folder, self._manifest, self._layout = folder, manifest, layout
        self._done = np.zeros(manifest.rows, np.bool_)
        self._waiting: dict[int, list[pa.Table]] = {}
        self._saved: dict[int, set[int]] = {}
        self._unsaved: list[pa.Table] = []
        self._save_due = time.monotonic() + SAVE_SECONDS
        self._committed = folder.committed()
        self.errors: Counter[str] = Counter()
        """reasons of this run's rows, without what follows their colon"""
        for part in self._committed:
            self._done[self._rows(part)] = True
        if retry_errors:
            self._take_back()
        for number, table in folder.saved():
            self._saved[number] = set(pc.unique(self._parts(table)).to_pylist())
            self._accept(table)

    @property
    def done(self) -> int:
        """Number of rows that are there."""
        return int(self._done.sum())

    def left(self, units: Sequence[Unit]) -> list[Unit]:
        """Return the units without what is done."""
        found = []
        for unit in units:
            partly: dict[int, tuple[int, ...]] = {}
            groups = []
            for group in unit.groups:
                rows = self._manifest.rows_of(group)
                done = self._done[rows.start : rows.stop]
                if not done.all():
                    groups.append(group)
                    if done.any():
                        partly[group] = tuple(np.flatnonzero(~done).tolist())
            if groups:
                found.append(Unit(tuple(groups), unit.in_order, partly))
        return found

    def add(self, block: Columns) -> None:
        """Take the rows of one batch; one that is there already, since a task ran twice, is dropped."""
        for reason in block["reason"][block["reason"] != ""].tolist():
            self.errors[kind_of(reason)] += 1
        table = self._layout.scored(block)
        self._unsaved.append(table)
        self._accept(table)
        if time.monotonic() >= self._save_due:
            self._save()

    def _accept(self, table: pa.Table) -> None:
        rows = table["row"].to_numpy()
        fresh = np.zeros(len(rows), np.bool_)
        fresh[np.unique(rows, return_index=True)[1]] = True
        fresh &= ~self._done[rows]
        self._done[rows] = True
        if not fresh.all():
            table = table.filter(pa.array(fresh))
        parts = self._parts(table)
        for part in pc.unique(parts).to_pylist():
            self._waiting.setdefault(part, []).append(table.filter(pc.equal(parts, part)))
            if self._done[self._rows(part)].all():
                self._commit(part)

    def _commit(self, part: int) -> None:
        rows = pa.concat_tables(self._waiting.pop(part)).sort_by("row")
        self._folder.write_part(
            part, self._layout.finished(rows, self._manifest.read_part(part, ["id", "uri", "member"]))
        )
        self._committed.add(part)
        for number in [number for number, parts in self._saved.items() if parts <= self._committed]:
            self._folder.forget(number)
            del self._saved[number]

    def _save(self) -> None:
        table = pa.concat_tables(self._unsaved)
        table = table.filter(pc.is_in(self._parts(table), pa.array(list(self._waiting), pa.int64())))
        if len(table):
            number = max(self._saved, default=-1) + 1
            self._folder.save(number, table)
            self._saved[number] = set(pc.unique(self._parts(table)).to_pylist())
        self._unsaved = []
        self._save_due = time.monotonic() + SAVE_SECONDS

    def _take_back(self) -> None:
        """Count what could not be read as not done; the other rows of its part wait with it for the new one."""
        for part in sorted(self._committed):
            with open_parquet(self._folder.part(part)) as file:
                if not pc.any(_passing(file.read(columns=["error"]))).as_py():
                    continue
                table = file.read().drop_columns(["id", "uri", "member", "model"])
            rows = self._rows(part)
            table = table.add_column(0, "row", pa.array(np.arange(rows.start, rows.start + len(table))))
            self._committed.discard(part)
            self._done[rows] = False
            self._accept(table.filter(pc.invert(_passing(table))))

    def _rows(self, part: int) -> slice:
        return slice(part * self._manifest.part_rows, (part + 1) * self._manifest.part_rows)

    def _parts(self, table: pa.Table) -> pa.ChunkedArray:
        return pa.chunked_array([pa.array(table["row"].to_numpy() // self._manifest.part_rows)])


def kind_of(reason: str) -> str:
    """Return a reason without what is particular to one image."""
    return reason.split(":")[0]


def _passing(table: pa.Table) -> pa.ChunkedArray:
    return pc.fill_null(pc.match_substring(table["error"], UNREADABLE), False)


def _lists(values: NDArray[Any], wrong: NDArray[np.bool_]) -> pa.ListArray:
    """Make a list of each row of (n, k); null where something was wrong."""
    offsets = np.arange(len(values) + 1) * values.shape[1]
    flat = pa.array(values.ravel().astype(np.str_) if values.dtype.kind == "U" else values.ravel())
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), flat, mask=pa.array(wrong))
