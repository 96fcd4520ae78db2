"""Exception types and exit statuses, and error messages in one line."""

from collections.abc import Iterator
from contextlib import contextmanager


class RequestError(ValueError):
    """Invalid request: nothing was written, and the message says in one line what to change.

    The command line prints it after the verb's name and exits with status 2.
    """


class WorkError(RuntimeError):
    """Failure of a valid request; the command line prints its message and exits with status 1."""


class ImageError(ValueError):
    """Image that can't be used; the message is the reason, for a row of a table."""


class UnsupportedModel(ValueError):
    """Model of another program that can't be used; the message is the reason, to follow the file's name."""


@contextmanager
def faults_end_the_work() -> Iterator[None]:
    """Convert an error of a disk or a network, which retries did not cure, to a WorkError of one line.

    Raises:
        WorkError: the block raised an OSError.
    """
    try:
        yield
    except OSError as error:
        raise WorkError(one_line(error)) from error


def one_line(error: Exception) -> str:
    """Return an error's message in one line of at most 200 characters; without one, the name of its type."""
    return (" ".join(str(error).split()) or type(error).__name__)[:200]
