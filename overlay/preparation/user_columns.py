"""Groups and splits given by the user: ``split.group_by`` (table or pattern) and ``split.column`` (table)."""

import re
from collections.abc import Sequence

from overlay.config import SPLITS, table_column
from overlay.errors import RequestError
from overlay.preparation.metadata_table import MetadataColumn


class GroupRule:
    """Rule for the group of an image by ``split.group_by``, a metadata table or a regular expression.

    Raises:
        RequestError: the pattern is not a valid regular expression, or the table can't be used.
    """

    def __init__(self, group_by: str) -> None:
        self._group_by = group_by
        self._column = MetadataColumn("split.group_by", group_by) if table_column(group_by) else None
        self._pattern = None if self._column else compile_pattern(group_by)
        self._first: str | None = None
        self._found = False

    def group(self, id: str, path: str) -> str | None:
        """Return the group of an image by its id or its path; None where it has none."""
        if self._column:
            return self._column.value(id, path)
        assert self._pattern is not None  # since there is no table
        found = match_group(path, self._pattern) or None
        self._first = self._first or path
        self._found = self._found or found is not None
        return found

    def check_found(self) -> None:
        """Check that at least one image had a group.

        Raises:
            RequestError: no image had a group.
        """
        if self._column:
            self._column.check_found()
        elif not self._found:
            raise RequestError(f"split.group_by {self._group_by!r} matches no path; a path looks like {self._first!r}")


class SplitRule:
    """Rule for the split of an image by ``split.column``, a metadata table.

    Raises:
        RequestError: the table can't be used.
    """

    def __init__(self, column: str) -> None:
        self._name = column
        self._column = MetadataColumn("split.column", column)
        self._given: set[str] = set()
        self._wrong: str | None = None

    def split(self, id: str, path: str) -> str | None:
        """Return the split of an image by its id or its path; None where it has none."""
        side = self._column.value(id, path)
        if side in SPLITS:
            self._given.add(side)
        elif self._wrong is None:
            said = "has no value" if side is None else f"is {side!r}"
            self._wrong = f"{said} for {id}"
        return side

    def check_found(self) -> None:
        """Check that every image is in train, val or test, and each of these has an image.

        Raises:
            RequestError: the table has none of the images, an image has no split or an unknown one, or a split has no
                image.
        """
        self._column.check_found()
        if self._wrong:
            raise RequestError(f"split.column {self._name} {self._wrong}; give each image train, val or test")
        if lacking := [name for name in SPLITS if name not in self._given]:
            raise RequestError(f"split.column {self._name} has no image in {lacking[0]}; give it at least one")


def user_groups(ids: Sequence[str], group_by: str) -> list[str]:
    """Return the group of each image by ``split.group_by``, or its id where it has none, (n,).

    Raises:
        RequestError: the pattern or the table can't be used, or no image has a group.
    """
    rule = GroupRule(group_by)
    found = [rule.group(id, id) or id for id in ids]
    rule.check_found()
    return found


def match_group(path: str, pattern: re.Pattern[str]) -> str | None:
    """Return the first capture group of the first match, or the whole match of a pattern without capture groups."""
    match = pattern.search(path)
    if match is None:
        return None
    return match[1] if pattern.groups else match[0]


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """Compile the regular expression of ``split.group_by``.

    Raises:
        RequestError: the pattern is not a valid regular expression.
    """
    try:
        return re.compile(pattern)
    except re.error as error:
        raise RequestError(f"split.group_by {pattern!r} is no regular expression: {error}") from error
