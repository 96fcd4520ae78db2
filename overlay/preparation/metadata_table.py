"""A user's own table, CSV or Parquet, that says something of each image beside its id or its path."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from overlay.config import table_column
from overlay.errors import RequestError


def read_metadata_column(option: str, column: str, ids: Sequence[str], paths: Sequence[str]) -> list[str | None]:
    """Look up each image, by its id or its path, in the column FILE:column of a table; None where it isn't there.

    Raises:
        RequestError: the file or the column can't be read, or no image, or one image twice, is in it.
    """
    file, name = table_column(column) or (column, "")
    place = Path(file).expanduser()
    try:
        if place.suffix.lower() == ".parquet":
            table = pq.read_table(place)
        else:
            names = pa.csv.read_csv(place).column_names
            table = pa.csv.read_csv(
                place, convert_options=pa.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()))
            )
    except (OSError, pa.ArrowInvalid) as error:
        raise RequestError(f"{option} {file} can't be read: {str(error).splitlines()[0]}") from error
    key = next((key for key in ("id", "path") if key in table.column_names), None)
    if key is None or name not in table.column_names:
        missing = f"column {name}" if key else "column id or path"
        raise RequestError(f"{option} {file} has no {missing}; it has {', '.join(table.column_names)}")
    keys, values = table[key].to_pylist(), table[name].cast(pa.string()).to_pylist()
    if len(set(keys)) < len(keys):
        raise RequestError(f"{option} {file} names {Counter(keys).most_common(1)[0][0]} twice; name each image once")
    known = {name: value or None for name, value in zip(keys, values, strict=True)}
    wanted = ids if key == "id" else paths
    if not any(name in known for name in wanted):
        raise RequestError(f"{option} {file} names none of the images; the {key} of one is {wanted[0]!r}")
    return [known.get(name) for name in wanted]
