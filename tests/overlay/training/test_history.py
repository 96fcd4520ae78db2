import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from overlay.config import EarlyStopping
from overlay.storage.path import StoragePath
from overlay.training.history import Epoch, best_epoch, should_stop, write_history

NAN = math.nan
Metric = Literal["val_loss", "val_accuracy", "val_macro_f1"]


def epochs(metric: str, values: Sequence[float], **others: float) -> list[Epoch]:
    row = Epoch(0, 0.5, 0.5, 0.5, 0.5, 0.5, 1e-4, 10.0, 2.0, 0.1, 5.0, None, 0.25)
    changed: list[dict[str, Any]] = [{"epoch": i + 1, metric: value, **others} for i, value in enumerate(values)]
    return [replace(row, **change) for change in changed]


@pytest.mark.parametrize(
    ("metric", "values", "min_delta", "best"),
    [
        ("val_loss", [0.75], 0, 0),
        ("val_loss", [0.75, 0.5, 0.25, 0.5], 0, 2),
        ("val_accuracy", [0.25, 0.75, 0.5], 0, 1),
        ("val_macro_f1", [0.25, 0.5, 0.75], 0, 2),
        ("val_accuracy", [0.5, 0.75, 0.75, 0.75], 0, 1),  # the first of equals
        ("val_loss", [1.0, 0.875, 0.75, 0.625], 0.25, 2),  # small gains add up, measured from the best
        ("val_loss", [1.0, 0.875, 0.8125], 0.25, 0),
        ("val_accuracy", [0.5, 0.75], 0.25, 1),  # a gain of just min_delta counts
    ],
)
def test_the_best_epoch_is_the_last_that_improved(
    metric: Metric,
    values: list[float],
    min_delta: float,
    best: int,
) -> None:
    assert best_epoch(epochs(metric, values), EarlyStopping(metric=metric, min_delta=min_delta)) == best


@pytest.mark.parametrize(
    ("values", "best"),
    [([NAN, 0.5, 0.75], 1), ([0.5, NAN, 0.25], 2), ([0.5, NAN], 0), ([math.inf, 0.5], 1), ([NAN], 0)],
)
def test_a_loss_that_is_no_number_is_never_best(values: list[float], best: int) -> None:
    assert best_epoch(epochs("val_loss", values), EarlyStopping()) == best


def test_the_good_accuracy_of_a_diverged_network_is_not_best() -> None:
    """argmax takes NaN for the first class, which may well be the commonest one."""
    sound = epochs("val_accuracy", [0.5])
    diverged = epochs("val_accuracy", [0.75], val_loss=NAN)
    assert best_epoch([*sound, *diverged], EarlyStopping(metric="val_accuracy")) == 0


def test_stops_after_patience_epochs_without_an_improvement() -> None:
    history = epochs("val_loss", [1.0, 0.5, 0.75, 0.5, 0.75])
    config = EarlyStopping(patience=3)
    assert [should_stop(history[:length], config) for length in range(6)] == [False] * 5 + [True]
    assert not should_stop(history, EarlyStopping(patience=4))


def test_stops_at_once_where_the_training_diverged() -> None:
    history = epochs("train_loss", [1.0, 0.5, NAN])
    assert [should_stop(history[:length], EarlyStopping()) for length in range(4)] == [False, False, False, True]


def test_history_is_a_row_an_epoch(tmp_path: Path) -> None:
    history = epochs("val_loss", [0.5, 0.25])
    write_history(history, StoragePath.of(tmp_path / "history.parquet"))
    table = pq.read_table(tmp_path / "history.parquet")
    assert table.column_names == [
        "epoch",
        "train_loss",
        "train_accuracy",
        "val_loss",
        "val_accuracy",
        "val_macro_f1",
        "learning_rate",
        "images_per_second",
        "seconds",
        "grad_norm",
        "images_per_core_second",
        "images_per_gpu_second",
        "device_wait_share",
    ]
    assert table.schema.types == [pa.int64(), *[pa.float64()] * 12]  # a column of nulls, too
    assert [Epoch(**row) for row in table.to_pylist()] == history
    assert [asdict(epoch) for epoch in history] == table.to_pylist()
    assert [file.name for file in tmp_path.iterdir()] == ["history.parquet"]
