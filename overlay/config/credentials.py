"""Credentials in addresses: detection, and refusal before anything is written, sent or echoed.

An address with credentials would stand in configurations, run folders, W&B, logs, process lists and the dashboard of a
cluster. Accounts come from the environment or from the files of the provider's own tools.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from urllib.parse import unquote

from overlay.errors import RequestError

_NAME = (
    r"[\w.-]*(?:secret|token|signature|credential|passw(?:or)?d|access[_-]?key|api[_-]?key|private[_-]?key)[\w.-]*"
    r"|sig|pwd|auth|authorization"
)
_QUERY = re.compile(rf"(?<=[?&;#])({_NAME})=[^&;\s'\"]*", re.IGNORECASE)
# A secret key may have a slash in it, after which the host's end can't be found; no bucket's name has a colon.
_ACCOUNT = re.compile(
    r"(?:://(?!anonymous@)|[?&]endpoint_override=)[^/\s?#&'\",]*@"
    r"|(?:s3|gs)://[^/\s?#'\",@]*:|://[^/\s?#'\",@:\[\]]+:(?!\d*(?:[/?#'\",\s\]]|$))",
    re.IGNORECASE,
)
ADVICE = (
    "it would be written to files and logs; set credentials in the environment, such as AWS_ACCESS_KEY_ID and "
    "AWS_SECRET_ACCESS_KEY, and download the file of a presigned URL first"
)
"""what to do, at the end of messages; never the credentials themselves"""


def find_credentials(text: str) -> str | None:
    """Return what kind of credentials a text has in an address, never their value; None where it has none.

    Recognised are an account before the host (``user:password@``), and parameters of a query by their names, as in
    presigned URLs of S3, Google Cloud Storage and Azure, also where they are percent-encoded.
    """
    if ":" not in text and "%" not in text:
        return None
    for form in (text, unquote(text)):
        if "://" not in form:
            continue
        if _ACCOUNT.search(form):
            return "an account before the host"
        if found := _QUERY.search(form, form.index("://")):
            return found[1]
    return None


def hide_credentials(text: str) -> str:
    """Return a text with the credentials of its addresses replaced by three asterisks."""
    if find_credentials(text) is None:
        return text
    if not _ACCOUNT.search(unquote(text)):
        hidden = _QUERY.sub(r"\1=***", text)
        if not _QUERY.search(unquote(hidden.replace("=***", ""))):
            return hidden
    return f"{text.partition('://')[0]}://***" if "://" in text else "***"


def check_no_credentials(name: str, value: object) -> None:
    """Check the value of an option, or all values of a section, for credentials in addresses.

    Raises:
        RequestError: there are some; the message has the option's name and the kind of the credentials.
    """
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, Mapping):
        for key, inner in value.items():
            check_no_credentials(f"{name}.{key}" if name else str(key), inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            check_no_credentials(name, inner)
    elif isinstance(value, str) and (kind := find_credentials(value)):
        raise RequestError(f"{name} has credentials in an address ({kind}); {ADVICE}")


def check_file(path: str) -> None:
    """Check a file of options for credentials in addresses, before any message repeats a line of it.

    A file that can't be read is passed over; whoever reads it says so.

    Raises:
        RequestError: there are some; the message has the number of the line.
    """
    try:
        lines = Path(path).expanduser().read_text(encoding="utf-8", errors="replace").splitlines()
    except (OSError, ValueError):
        return
    for number, line in enumerate(lines, 1):
        if kind := find_credentials(line):
            raise RequestError(f"{path}, line {number}, has credentials in an address ({kind}); {ADVICE}")


def check_words(words: Sequence[str]) -> None:
    """Check the words of a command line, before any message repeats one of them.

    Raises:
        RequestError: a word has credentials in an address.
    """
    before = ""
    for word in words:
        if kind := find_credentials(word):
            name = word.partition("=")[0] if re.match(r"--[\w.]+=", word) else before
            where = name if re.fullmatch(r"--[\w.]+", name) else "an argument"
            raise RequestError(f"{where} has credentials in an address ({kind}); {ADVICE}")
        before = word
