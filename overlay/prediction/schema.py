"""Arrow schema of the predictions, and conversion of scored batches to its columns."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from overlay.engines.base import ScoredBatch


def prediction_schema(classes: Sequence[str]) -> pa.Schema:
    """Return the schema of the columns that every prediction has.

    ``member`` is null outside archives and tables; ``label``, ``confidence`` and probabilities are null in errors;
    ``error_kind``, an `ErrorKind`, is null where there is none.
    """
    return pa.schema(
        [
            ("id", pa.string()),
            ("uri", pa.string()),
            ("member", pa.string()),
            ("status", pa.string()),
            ("error", pa.string()),
            ("error_kind", pa.string()),
            ("label", pa.string()),
            ("confidence", pa.float32()),
            *((f"prob_{name}", pa.float32()) for name in classes),
            ("model", pa.string()),
        ]
    )


def evaluation_schema(classes: Sequence[str]) -> pa.Schema:
    """Return the schema of an evaluation's predictions: with the true label, and group, fold and split in the dataset.

    ``fold`` is null for a dataset without folds.
    """
    texts = [pa.field(name, pa.string()) for name in ("true_label", "group")]
    return pa.schema([*prediction_schema(classes), *texts, ("fold", pa.int32()), ("split", pa.string())])


@dataclass(frozen=True)
class PredictionColumns:
    """Columns of the output by the options of a prediction."""

    classes: Sequence[str]
    model: str
    """SHA-256 of the model file"""
    top_k: int | None = None
    """number of ``top_labels`` and ``top_probabilities``; None: no such columns"""
    entropy: bool = False
    """whether to add the entropy of the probabilities, in nats"""
    uncertain_below: float | None = None
    """confidence below which a row is ``uncertain``; None: no such column"""
    flag: tuple[str, float] | None = None
    """positive class, and the probability of it from which on a row has the ``flag``; None: no such column"""

    def tabulate(self, block: ScoredBatch) -> pa.Table:
        """Convert a scored batch to a table of the output's columns, and ``row`` for joining with the inputs.

        The batch has ``row``, ``reason`` and ``error_kind`` (n,), ``probabilities`` (n, classes), and perhaps
        ``embedding`` (n, d) and ``precision`` (n,).
        """
        reasons, probabilities = block["reason"], block["probabilities"]
        wrong = reasons != ""
        best = np.where(wrong[:, None], 0, probabilities).argmax(axis=1)
        columns: dict[str, Any] = {
            "row": block["row"],
            "status": np.where(wrong, "error", "ok"),
            "error": pa.array(reasons, pa.string(), mask=~wrong),
            "error_kind": pa.array(block["error_kind"], pa.string(), mask=~wrong),
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
        if self.flag is not None:
            positive, threshold = self.flag
            columns["flag"] = pa.array(probabilities[:, list(self.classes).index(positive)] >= threshold, mask=wrong)
        if "embedding" in block:
            columns["embedding"] = _lists(block["embedding"], wrong)
        if "precision" in block:
            columns["precision"] = pa.array(block["precision"], pa.string(), mask=wrong)
        return pa.table(columns)

    def add_inputs(self, scored: pa.Table, inputs: pa.Table) -> pa.Table:
        """Add the columns id, uri and member of a part's inputs, and the model; both tables are sorted by row."""
        table = scored.drop_columns("row")
        for name in ("member", "uri", "id"):
            table = table.add_column(0, name, inputs[name])
        table = table.append_column("model", pa.array([self.model] * len(table)))
        known = prediction_schema(self.classes)
        return table.cast(
            pa.schema([known.field(name) if name in known.names else table.field(name) for name in table.column_names])
        )


def _lists(values: NDArray[Any], wrong: NDArray[np.bool_]) -> pa.ListArray:
    """Return a list column from rows of (n, k); null where ``wrong``, (n,), is true."""
    offsets = np.arange(len(values) + 1) * values.shape[1]
    flat = pa.array(values.ravel().astype(np.str_) if values.dtype.kind == "U" else values.ravel())
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), flat, mask=pa.array(wrong))
