"""Folders that Overlay wrote: datasets, runs, predictions, evaluations; they are never inputs of a listing."""

from collections.abc import Collection

from overlay.storage.filenames import is_lock

_MARKS = {
    "a prepared dataset": ({"dataset.json", "manifest.parquet", "data"}, {".prepare"}),
    "a training run": ({"config.yaml", "run.json"},),
    "predictions": ({"request.json", "manifest"}, {"_SUCCESS.json", "predictions"}),
    "an evaluation": ({"metrics.json", "predictions.parquet"}, {"classification_report.csv", "predictions.parquet"}),
    "tracking": ({"latest-run"},),
}
"""kind -> sets of entries, one of which is complete in each such folder, also in one that is not finished"""


def own_output(entries: Collection[str]) -> str | None:
    """Return what Overlay wrote into a folder, by the names of its entries; None for any other folder."""
    present = set(entries)
    if any(map(is_lock, present)):  # a command has only begun in it
        return "an output folder in use"
    return next((kind for kind, marks in _MARKS.items() if any(mark <= present for mark in marks)), None)


def is_own_output(entries: Collection[str]) -> bool:
    """Whether Overlay wrote a folder, by the names of its entries."""
    return own_output(entries) is not None
