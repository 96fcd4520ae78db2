"""Addresses of files: absolute paths that keep symbolic links, and queries of bucket URIs."""

import re
from pathlib import Path


def absolute_path(text: str) -> str:
    """Return an absolute path in which symbolic links keep their names.

    Only the part before a ``..`` is resolved, since the parent of a linked folder is that of its target.
    """
    path = Path(text).expanduser().absolute()
    if ".." not in path.parts:
        return str(path)
    last = len(path.parts) - path.parts[::-1].index("..")
    return str(Path(*path.parts[:last]).resolve().joinpath(*path.parts[last:]))


def split_query(text: str) -> tuple[str, str]:
    """Split a URI into its path and its query, with the question mark; file names may contain question marks."""
    match = re.search(r"\?\w+=[^/?]*$", text)
    return (text[: match.start()], match[0]) if match else (text, "")
