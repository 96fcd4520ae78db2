"""Lines of a list of inputs, from whatever program wrote it: UTF-8, UTF-16, byte order marks, quotes.

Excel and PowerShell write UTF-16 or a byte order mark; Windows copies a path in quotes, and so does a CSV. A name on a
Unix disk is bytes: those that are not UTF-8 stay as they are (surrogates, by PEP 383).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

_MARKS = ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"))
_LOOKED_AT = 1000
_QUOTES = "\"'"


def list_lines(stream: TextIO) -> Iterator[str]:
    """Yield the lines of a list on standard input without their ends, empty ones left out, each of quotes taken off.

    Quotes stay where a file of that name exists.
    """
    # A stream of text alone, such as StringIO, has no bytes below it.
    text = decode_list(stream.buffer.read()) if hasattr(stream, "buffer") else stream.read().removeprefix("\ufeff")
    for line in text.replace("\r\n", "\n").split("\n"):
        if line.strip():
            yield _unquote(line.removesuffix("\r"))


def decode_list(data: bytes) -> str:
    """Return the text of a list by its byte order mark; without one it is UTF-16 where every other byte is 0."""
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return data[len(mark) :].decode(encoding, "surrogateescape" if encoding == "utf-8" else "replace")
    head = data[:_LOOKED_AT]
    for first, encoding in ((1, "utf-16-le"), (0, "utf-16-be")):
        # Paths are mostly ASCII; a single NUL is no sign of UTF-16 but a name that no file can have.
        if head and head[first::2].count(0) > len(head) // 4 and not head[1 - first :: 2].count(0):
            return data.decode(encoding, "replace")
    return data.decode("utf-8", "surrogateescape")


def _unquote(line: str) -> str:
    text = line.strip()
    quoted = len(text) > 2 and text[0] in _QUOTES and text[-1] == text[0]
    if not quoted or _exists(line):
        return line
    return text[1:-1].replace(text[0] * 2, text[0])


def _exists(path: str) -> bool:
    try:
        return Path(path).exists()
    except OSError:  # such as a name that is too long
        return False
