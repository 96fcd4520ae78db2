"""Metadata tables of the user: a value for each image, matched by id, path, file name or stem.

Tables name images in many ways: by the path below the source or on another machine, by the file's name, with the
ending or without, in a column of any name. `MetadataColumn` observes all images first, and then takes the column and
the kind of name by which most images are found, if each of them is found without doubt.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field

from overlay.config import table_column
from overlay.errors import RequestError
from overlay.storage.filenames import IMAGE_ENDINGS
from overlay.storage.path import StoragePath
from overlay.storage.text_table import TextTable, read_text_table

_KINDS = ("id", "path", "file name", "stem")
_KEY_COLUMN = re.compile(r"id|path|file|image|img|name|uri", re.IGNORECASE)
_FRAME = re.compile(r"#\d+$")
_TRIED_IMAGES = 2000  # after which columns without a match are left out
_AMBIGUOUS = -1


class MetadataColumn:
    """Column of a metadata table, FILE:column, looked up by the id or the path of an image.

    Call `observe` for every image, then `settle`, then `value` for any of them.

    Raises:
        RequestError: the file can't be read, or has no such column.
    """

    def __init__(self, option: str, column: str) -> None:
        file, name = table_column(column) or (column, "")
        self._where = f"{option} {file}"
        try:
            table = read_text_table(StoragePath.of(file))
        except RequestError as error:
            raise RequestError(f"{self._where} {error}") from error
        if name not in table.columns:
            raise RequestError(f"{self._where} has no column {name}; it has {', '.join(table.columns)}")
        self._remark = table.remark
        self._values = table.columns[name]
        self._candidates = list(_candidates(table, name))
        self._key: _Key | None = None
        self._observed = 0
        self._first: str | None = None

    def observe(self, id: str, path: str) -> None:
        """Count how an image is found; ``path`` is its path within its source."""
        self._first = self._first or path
        self._observed += 1
        file = _FRAME.sub("", id)
        names = _names(file, _FRAME.sub("", path))
        for key in self._candidates:
            key.observe(names[key.kind], file)
        if self._observed == _TRIED_IMAGES:
            self._candidates = [key for key in self._candidates if key.matched] or self._candidates

    def settle(self) -> None:
        """Choose the column and the kind of name by which images are found.

        Raises:
            RequestError: the table names no image, or it has several rows with different values for an image, or a row
                that several images match.
        """
        found = [key for key in self._candidates if key.matched]
        if not found:
            raise RequestError(f"{self._where} names none of the images; the path of one is {self._first!r}")
        if not (clean := [key for key in found if key.doubt is None]):
            doubt = max(found, key=lambda key: key.matched).doubt
            raise RequestError(f"{self._where} {doubt}")
        self._key = max(clean, key=lambda key: (key.matched, -key.kind, bool(_KEY_COLUMN.search(key.column))))

    def value(self, id: str, path: str) -> str | None:
        """Return the value of an image; None where the table lacks the image or the value is empty."""
        assert self._key is not None  # after settle
        names = _names(_FRAME.sub("", id), _FRAME.sub("", path))
        row = self._key.rows.get(names[self._key.kind])
        return None if row is None else self._values[row]

    def lookup(self, ids: Sequence[str]) -> list[str | None]:
        """Return the value of each image, (n,), by its id alone.

        Raises:
            RequestError: as `settle`.
        """
        for id in ids:
            self.observe(id, id)
        self.settle()
        return [self.value(id, id) for id in ids]

    def remarks(self) -> list[str]:
        """Return what the user must know: how images are found, and the rows without an image."""
        assert self._key is not None
        key = self._key
        lines = [f"{self._where}: {self._remark}"] if self._remark else []
        by = _KINDS[key.kind]
        lines.append(
            f"{self._where}: {key.matched} of {self._observed} images are found, by {by} in its column {key.column}"
        )
        if missing := [name for name in key.rows if name not in key.owners]:
            shown = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
            lines.append(f"{self._where}: {len(missing)} rows without an image: {shown}")
        return lines


@dataclass
class _Key:
    """Column by which rows are found, read as one kind of name."""

    column: str
    kind: int
    """index in ``_KINDS``"""
    rows: dict[str, int]
    """name -> first row; ``_AMBIGUOUS`` where several rows differ in their values"""
    owners: dict[str, str] = field(default_factory=dict)
    """name -> file that has it"""
    matched: int = 0
    """number of images that were found"""
    doubt: str | None = None
    """reason why an image is not found without doubt"""

    def observe(self, name: str, file: str) -> None:
        row = self.rows.get(name)
        if row is None:
            return
        self.matched += 1
        owner = self.owners.setdefault(name, file)
        if row == _AMBIGUOUS:
            self.doubt = f"names {name} twice, with different values; name each image once"
        elif owner != file and self.doubt is None:
            self.doubt = f"names {name}, which {owner} and {file} both match; give the paths of the images"


def _candidates(table: TextTable, value_column: str) -> list[_Key]:
    values = table.columns[value_column]
    found = []
    for column, texts in table.columns.items():
        if column == value_column or not any(texts):
            continue
        whole, name, stem = _index(texts, values, 0), _index(texts, values, 2), _index(texts, values, 3)
        found += [_Key(column, kind, rows) for kind, rows in enumerate((whole, whole, name, stem))]
    return found


def _index(texts: Sequence[str | None], values: Sequence[str | None], kind: int) -> dict[str, int]:
    rows: dict[str, int] = {}
    for row, text in enumerate(texts):
        if text is not None:
            normal = _normalise(text)
            name = normal if kind == 0 else _names(normal, normal)[kind]
            first = rows.setdefault(name, row)
            if first != row and (first == _AMBIGUOUS or values[first] != values[row]):
                rows[name] = _AMBIGUOUS
    return rows


def _names(id: str, path: str) -> tuple[str, str, str, str]:
    """Return the names of an image by the kinds of ``_KINDS``."""
    id, path = _normalise(id), _normalise(path)
    name = path.rpartition("/")[2]
    ending = next((end for end in IMAGE_ENDINGS if name.lower().endswith(end)), "")
    return id, path, name, name.removesuffix(name[-len(ending) :]) if ending else name


def _normalise(text: str) -> str:
    return unicodedata.normalize("NFC", text).replace("\\", "/").removeprefix("./")
