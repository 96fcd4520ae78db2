"""Metadata tables of the user, CSV or Parquet: a value for each image by its id or its path."""

from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from overlay.config import table_column
from overlay.errors import RequestError


class MetadataColumn:
    """Column of a metadata table, FILE:column, looked up by the id or the path of an image.

    Raises:
        RequestError: the file can't be read, has no such column or neither id nor path, or names an image twice.
    """

    def __init__(self, option: str, column: str) -> None:
        file, name = table_column(column) or (column, "")
        self._where = f"{option} {file}"
        table = self._read(Path(file).expanduser())
        key = next((key for key in ("id", "path") if key in table.column_names), None)
        if key is None or name not in table.column_names:
            missing = f"column {name}" if key else "column id or path"
            raise RequestError(f"{self._where} has no {missing}; it has {', '.join(table.column_names)}")
        keys, values = table[key].to_pylist(), table[name].cast(pa.string()).to_pylist()
        if len(set(keys)) < len(keys):
            twice = Counter(keys).most_common(1)[0][0]
            raise RequestError(f"{self._where} names {twice} twice; name each image once")
        self._key: str = key
        self._values = {name: value or None for name, value in zip(keys, values, strict=True)}
        self._first: str | None = None
        self._found = False

    def value(self, id: str, path: str) -> str | None:
        """Return the value of an image; None where the table lacks the image or the value is empty."""
        asked = id if self._key == "id" else path
        self._first = self._first or asked
        self._found = self._found or asked in self._values
        return self._values.get(asked)

    def check_found(self) -> None:
        """Check that the table has at least one of the images that were looked up.

        Raises:
            RequestError: the table has none of them.
        """
        if not self._found:
            raise RequestError(f"{self._where} names none of the images; the {self._key} of one is {self._first!r}")

    def _read(self, place: Path) -> pa.Table:
        try:
            if place.suffix.lower() == ".parquet":
                return pq.read_table(place)
            names = pa.csv.read_csv(place).column_names
            texts = pa.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()))
            return pa.csv.read_csv(place, convert_options=texts)
        except (OSError, pa.ArrowInvalid) as error:
            raise RequestError(f"{self._where} can't be read: {str(error).splitlines()[0]}") from error
