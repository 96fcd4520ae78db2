"""Training history: the metrics of each epoch, the best epoch, and early stopping."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

import pyarrow as pa
import pyarrow.parquet as pq

from overlay.config import EarlyStopping
from overlay.storage.atomic import write_atomically
from overlay.storage.parquet import open_parquet
from overlay.storage.path import StoragePath


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
    grad_norm: float
    """mean over the epoch's steps, before any clipping"""
    images_per_core_second: float
    """images_per_second divided by the CPU cores of the machine, or of all nodes of the Ray cluster"""
    images_per_gpu_second: float | None
    """the same for the workers' GPUs; None on CPUs"""
    device_wait_share: float | None
    """share of the training's time, validation aside, in which the first worker's device had no step to compute; None
    for an epoch of which only the validation was left when the run was resumed"""


_SCHEMA = pa.schema([(field.name, pa.int64() if field.name == "epoch" else pa.float64()) for field in fields(Epoch)])


def history_table(history: Sequence[Epoch]) -> pa.Table:
    """Return the history as a table, one row an epoch."""
    return pa.Table.from_pylist([asdict(epoch) for epoch in history], schema=_SCHEMA)


def write_history(history: Sequence[Epoch], path: StoragePath) -> None:
    """Write history.parquet atomically."""
    with write_atomically(path) as temporary:
        pq.write_table(history_table(history), temporary)


def read_history(path: StoragePath) -> list[Epoch]:
    """Read history.parquet; empty where it is not there."""
    if not path.is_file():
        return []
    with open_parquet(path) as file:
        return [Epoch(**row) for row in file.read().to_pylist()]


def best_epoch(history: Sequence[Epoch], config: EarlyStopping) -> int:
    """Return the position, in a history that is not empty, of the last epoch that improved on all before it.

    An epoch whose validation loss is not a finite number is best only where all are like that: such a network may
    score well, since argmax takes NaN for the first class, but it predicts nothing.
    """
    sign = -1 if config.metric == "val_loss" else 1
    best, best_score = 0, -math.inf
    for position, epoch in enumerate(history):
        score = sign * getattr(epoch, config.metric)
        gain = score - best_score
        if math.isfinite(epoch.val_loss) and gain > 0 and gain >= config.min_delta:
            best, best_score = position, score
    return best


def should_stop(history: Sequence[Epoch], config: EarlyStopping) -> bool:
    """Early stopping: whether ``patience`` epochs have passed since the best one, or the run diverged.

    A training loss of NaN has made every weight NaN, and no later step changes that.
    """
    if not history:
        return False
    return math.isnan(history[-1].train_loss) or len(history) - 1 - best_epoch(history, config) >= config.patience
