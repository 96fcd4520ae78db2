"""The epochs of a run so far, and what follows from them: the best epoch, and whether to stop."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from overlay import figures
from overlay.config import EarlyStopping
from overlay.storage import write_atomically


@dataclass(frozen=True)
class Epoch:
    """A row of history.parquet. Losses and scores are over all workers' samples; seconds include the validation."""

    epoch: int
    """counts from 1"""
    train_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float
    val_macro_f1: float
    learning_rate: float
    images_per_second: float
    seconds: float


def table(history: Sequence[Epoch]) -> pa.Table:
    """Return the history as a table, one row an epoch."""
    return pa.Table.from_pylist([asdict(epoch) for epoch in history])


def write_history(history: Sequence[Epoch], path: Path) -> None:
    """Write history.parquet, whole or not at all."""
    with write_atomically(path) as temporary:
        pq.write_table(table(history), temporary)


def curves(history: Sequence[Epoch], best: int) -> bytes:
    """Draw the picture curves.png, as PNG; ``best`` is the position of the best epoch."""
    return figures.curves(table(history).to_pydict(), best_epoch=history[best].epoch)


def best_epoch(history: Sequence[Epoch], config: EarlyStopping) -> int:
    """Return the position in the history, which is not empty, of the last epoch that improved on all before it."""
    sign = -1 if config.metric == "val_loss" else 1
    best = 0
    for position, epoch in enumerate(history):
        gain = sign * (getattr(epoch, config.metric) - getattr(history[best], config.metric))
        if gain > config.min_delta:
            best = position
    return best


def should_stop(history: Sequence[Epoch], config: EarlyStopping) -> bool:
    """Say whether ``patience`` epochs have passed since the best one."""
    return len(history) > 0 and len(history) - 1 - best_epoch(history, config) >= config.patience
