"""Labels, groups and splits given by the user in tables (``labels.column``, ``split.column``), tables or patterns
(``split.group_by``), and a map of labels (``labels.map``)."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from overlay.config import SPLITS, Prepare, Split, table_column
from overlay.errors import ErrorKind, Reason, RequestError
from overlay.preparation.metadata_table import MetadataColumn

_TRUTH = {"True": ("yes", "true", "on"), "False": ("no", "false", "off")}


class LabelRule:
    """Rule for the label of an image by ``labels.column``, a metadata table, and ``labels.map``.

    Raises:
        RequestError: the table can't be used.
    """

    def __init__(self, column: str | None, names: Mapping[str, str]) -> None:
        self.column = MetadataColumn("labels.column", column) if column else None
        self._where = column
        self._names = dict(names)
        for truth, words in _TRUTH.items():  # YAML reads yes and no as these
            if truth in names:
                self._names |= {form: names[truth] for word in words for form in (word, word.title(), word.upper())}
        self._numbered = any(name.isdigit() for name in names)
        self._unmapped: str | None = None

    def label(self, own: str | None, id: str, path: str) -> tuple[str | None, Reason | None]:
        """Return the label of an image, and a reason where it has none; ``own`` is the label by its folder."""
        given = self.column.value(id, path) if self.column else own
        if given is None:
            said = Reason(f"image without a label in the table {self._where}", ErrorKind.REFUSED)
            return None, said if self.column else None
        if self._numbered and given.isdigit() and given not in self._names:
            self._unmapped = self._unmapped or given
        return self._names.get(given, given), None

    def check_found(self) -> None:
        """Check that a map of numbers has each of the numbers.

        Raises:
            RequestError: a label is a number that the map lacks.
        """
        if self._unmapped is not None:
            raise RequestError(f"labels.map has no name for {self._unmapped}; give each number the name of its class")


class GroupRule:
    """Rule for the group of an image by ``split.group_by``, a metadata table or a regular expression.

    Raises:
        RequestError: the pattern is not a valid regular expression, or the table can't be used.
    """

    def __init__(self, group_by: str, ungrouped: str = Split.ungrouped) -> None:
        self._group_by, self._ungrouped = group_by, ungrouped
        self.column = MetadataColumn("split.group_by", group_by) if table_column(group_by) else None
        self._pattern = None if self.column else compile_pattern(group_by)
        self._asked = 0
        self._without: list[str] = []

    def group(self, id: str, path: str) -> str | None:
        """Return the group of an image by its id or its path; None where it has none."""
        if self.column:
            found = self.column.value(id, path)
        else:
            assert self._pattern is not None  # since there is no table
            found = match_group(path, self._pattern) or None
        self._asked += 1
        if found is None:
            self._without.append(path)
        return found

    def check_found(self) -> None:
        """Check that images have groups: all of them, or at least one where ``split.ungrouped`` is single.

        Raises:
            RequestError: an image has no group.
        """
        missing = len(self._without)
        if missing and missing == self._asked:
            raise RequestError(
                f"split.group_by {self._group_by!r} matches no path; a path looks like {self._without[0]!r}"
            )
        if missing and self._ungrouped != "single":
            raise RequestError(
                f"{missing} of {self._asked} images have no group by split.group_by {self._group_by}, such as "
                f"{self._without[0]}; give each image a group, or make each of these a group of its own by "
                "--split.ungrouped single"
            )

    def remarks(self) -> list[str]:
        """Return what the user must know of images without a group."""
        missing = len(self._without)
        return [f"{missing} of {self._asked} images have no group; each is a group of its own"] if missing else []


class SplitRule:
    """Rule for the split of an image by ``split.column``, a metadata table.

    Raises:
        RequestError: the table can't be used.
    """

    def __init__(self, column: str) -> None:
        self._name = column
        self.column = MetadataColumn("split.column", column)
        self._given: set[str] = set()
        self._wrong: str | None = None

    def split(self, id: str, path: str) -> str | None:
        """Return the split of an image by its id or its path; None where it has none."""
        side = self.column.value(id, path)
        if side in SPLITS:
            self._given.add(side)
        elif self._wrong is None:
            said = "has no value" if side is None else f"is {side!r}"
            self._wrong = f"{said} for {id}"
        return side

    def check_found(self) -> None:
        """Check that every image is in train, val or test, and each of these has an image.

        Raises:
            RequestError: an image has no split or an unknown one, or a split has no image.
        """
        if self._wrong:
            raise RequestError(f"split.column {self._name} {self._wrong}; give each image train, val or test")
        if lacking := [name for name in SPLITS if name not in self._given]:
            raise RequestError(f"split.column {self._name} has no image in {lacking[0]}; give it at least one")


@dataclass(frozen=True)
class UserRules:
    """Rules for labels, groups and splits of a preparation."""

    labels: LabelRule
    groups: GroupRule | None
    splits: SplitRule | None

    @classmethod
    def of(cls, config: Prepare) -> "UserRules":
        """Open the tables that the options name.

        Raises:
            RequestError: a table or a pattern can't be used.
        """
        split = config.split
        return cls(
            LabelRule(config.labels.column, config.labels.map),
            GroupRule(split.group_by, split.ungrouped) if split.group_by else None,
            SplitRule(split.column) if split.column else None,
        )

    @property
    def tables(self) -> list[MetadataColumn]:
        """Columns of tables that must observe all images before any value is asked for."""
        return [rule.column for rule in (self.labels, self.groups, self.splits) if rule and rule.column]

    def check_found(self) -> None:
        """Check the values that were found.

        Raises:
            RequestError: see `check_found` of each rule.
        """
        for rule in (self.labels, self.groups, self.splits):
            if rule:
                rule.check_found()

    def remarks(self) -> list[str]:
        """Return what the user must know of the tables and of images without a group."""
        lines = [line for table in self.tables for line in table.remarks()]
        return lines + (self.groups.remarks() if self.groups else [])


def user_groups(ids: Sequence[str], split: Split) -> list[str]:
    """Return the group of each image by ``split.group_by``, or its id where it has none, (n,).

    Raises:
        RequestError: the pattern or the table can't be used, or an image has no group and ``split.ungrouped`` is
            refuse.
    """
    rule = GroupRule(split.group_by or "", split.ungrouped)
    if rule.column:
        rule.column.lookup(ids)
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
