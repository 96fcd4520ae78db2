"""CSV files for people: texts that a spreadsheet would take for a formula are made harmless."""

import csv
import io
from collections.abc import Iterable, Sequence

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def format_csv(rows: Iterable[Sequence[object]]) -> str:
    """Return rows as CSV; a text that begins like a formula gets an apostrophe before it, numbers stay as they are.

    (OWASP, "CSV Injection": a class or a file may be called ``=HYPERLINK(...)``.)
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([_harmless(cell) for cell in row] for row in rows)
    return text.getvalue()


def _harmless(cell: object) -> object:
    if not isinstance(cell, str):
        return cell
    mark = "'" if cell.startswith(_FORMULA_STARTS) else ""
    return mark + cell.replace("\r", " ")  # which Python's writer doesn't quote where lines end with a line feed
