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
    """Split a URI into its path and its query, with the question mark; the query may be empty, and is then "?"."""
    match = re.search(r"\?(?:\w+=[^/?]*)?$", text)
    return (text[: match.start()], match[0]) if match else (text, "")


def join_query(path: str, query: str) -> str:
    """Return the URI of an object: names may end like queries (``scan?v=2.png``), and are ended by an empty one then.

    So no name of an object, which is data, is read as a query, which chooses the server.
    """
    return path + (query if query not in ("", "?") else "?" if split_query(path)[1] else "")
