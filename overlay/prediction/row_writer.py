"""Exactly-once writer of prediction rows: deduplication, commit of complete parts, and saving of incomplete ones.

Rows come in any order. A part is committed once it has all its rows; rows of incomplete parts are saved every 5 s, so
that a killed process loses no more than these seconds.
"""

import time
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from overlay.engines.base import ScoredBatch
from overlay.errors import ErrorKind
from overlay.prediction.output_folder import PredictionFolder
from overlay.prediction.schema import PredictionColumns
from overlay.sources.manifest import Manifest
from overlay.sources.read_plan import ReadUnit
from overlay.sources.read_units import ReadUnits
from overlay.storage.parquet import open_parquet

SAVE_SECONDS = 5.0
"""longest time in seconds for which finished rows are in memory only"""


class PredictionWriter:
    """Writer that accepts rows in any order, commits complete parts, and returns the units that remain."""

    def __init__(
        self, folder: PredictionFolder, manifest: Manifest, layout: PredictionColumns, *, retry_errors: bool
    ) -> None:
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
            self._reopen_unread()
        for number, table in folder.saved_rows():
            self._saved[number] = set(pc.unique(self._parts(table)).to_pylist())
            self._accept(table)

    @property
    def done(self) -> int:
        """Number of rows that are committed, saved or in memory."""
        return int(self._done.sum())

    def remaining_units(self, units: Sequence[ReadUnit]) -> ReadUnits:
        """Return the units without the rows that are done."""
        found = ReadUnits()
        for unit in units:
            partly: dict[int, tuple[int, ...]] = {}
            groups = []
            for group in unit.groups:
                rows = self._manifest.rows_of_group(group)
                done = self._done[rows.start : rows.stop]
                if not done.all():
                    groups.append(group)
                    if done.any():
                        partly[group] = tuple(np.flatnonzero(~done).tolist())
            if groups:
                found.append(ReadUnit(tuple(groups), unit.in_order, partly, unit.largest))
        return found

    def add(self, block: ScoredBatch) -> None:
        """Take the rows of one batch; one that is there already, since a task ran twice, is dropped."""
        for reason in block["reason"][block["reason"] != ""].tolist():
            self.errors[error_reason(reason)] += 1
        table = self._layout.tabulate(block)
        self._unsaved.append(table)
        self._accept(table)
        if time.monotonic() >= self._save_due:
            self._save()

    def save(self) -> int:
        """Save the rows that are in memory only, whatever `add` was doing, and return how many rows are saved in all.

        Rows of a part that is committed are saved, too; they are dropped when they are read.
        """
        if self._unsaved:
            self._folder.save_rows(max(self._saved, default=-1) + 1, pa.concat_tables(self._unsaved))
        return self.done

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
            part, self._layout.add_inputs(rows, self._manifest.read_part(part, ["id", "uri", "member"]))
        )
        self._committed.add(part)
        for number in [number for number, parts in self._saved.items() if parts <= self._committed]:
            self._folder.delete_rows(number)
            del self._saved[number]

    def _save(self) -> None:
        table = pa.concat_tables(self._unsaved)
        table = table.filter(pc.is_in(self._parts(table), pa.array(list(self._waiting), pa.int64())))
        if len(table):
            number = max(self._saved, default=-1) + 1
            self._folder.save_rows(number, table)
            self._saved[number] = set(pc.unique(self._parts(table)).to_pylist())
        self._unsaved = []
        self._save_due = time.monotonic() + SAVE_SECONDS

    def _reopen_unread(self) -> None:
        """Mark rows with transient errors as not done, and their parts as incomplete, for ``retry_errors``."""
        for part in sorted(self._committed):
            with open_parquet(self._folder.part(part)) as file:
                if not pc.any(_is_transient(file.read(columns=["error_kind"]))).as_py():
                    continue
                table = file.read().drop_columns(["id", "uri", "member", "model"])
            rows = self._rows(part)
            table = table.add_column(0, "row", pa.array(np.arange(rows.start, rows.start + len(table))))
            self._committed.discard(part)
            self._done[rows] = False
            self._accept(table.filter(pc.invert(_is_transient(table))))

    def _rows(self, part: int) -> slice:
        rows = self._manifest.rows_of_part(part)
        return slice(rows.start, rows.stop)

    def _parts(self, table: pa.Table) -> pa.ChunkedArray:
        return pa.chunked_array([pa.array(self._manifest.part_of(table["row"].to_numpy()))])


def error_reason(reason: str) -> str:
    """Return the kind of an error: the reason up to its first colon, without details of one image."""
    return reason.split(":")[0]


def _is_transient(table: pa.Table) -> pa.ChunkedArray:
    return pc.fill_null(pc.equal(table["error_kind"], ErrorKind.UNREADABLE), False)
