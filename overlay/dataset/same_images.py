"""Check that two prepared datasets hold the same images under the same labels, groups and folds."""

from collections.abc import Mapping

from overlay.dataset.prepared import PreparedDataset
from overlay.dataset.rows import open_tables
from overlay.errors import RequestError

_COLUMNS = ["id", "label", "group", "fold"]


def check_same_images(reference: PreparedDataset, other: PreparedDataset) -> None:
    """Check that ``other`` differs from ``reference`` in its pixels only.

    Raises:
        RequestError: ids, labels, groups or folds differ; names the first difference.
    """
    ours, theirs = _read_rows(reference), _read_rows(other)
    if different := sorted(ours.keys() ^ theirs.keys()):
        where, without = (reference, other) if different[0] in ours else (other, reference)
        raise RequestError(f"{where.path} has the image {different[0]}, and {without.path} does not")
    for id in sorted(ours):
        for name in _COLUMNS[1:]:
            if ours[id][name] != theirs[id][name]:
                raise RequestError(
                    f"{reference.path} and {other.path} differ in the {name} of {id}: {ours[id][name]} and "
                    f"{theirs[id][name]}; prepare both with the same options but for the overlay"
                )


def groups_by_id(dataset: PreparedDataset) -> dict[str, str]:
    """Return id -> group of a dataset's images."""
    return {id: row["group"] for id, row in _read_rows(dataset).items()}


def _read_rows(dataset: PreparedDataset) -> dict[str, Mapping[str, str]]:
    return {row["id"]: row for row in open_tables(dataset).to_table(columns=_COLUMNS).to_pylist()}
