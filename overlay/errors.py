"""Exception types of Overlay, and the one-line texts of errors."""

from collections.abc import Iterator
from contextlib import contextmanager


class RequestError(ValueError):
    """The request was wrong: nothing was written, and the message says in one line what to change.

    The command line prints it after the verb's name and exits with status 2.
    """


class WorkError(RuntimeError):
    """The request was right but the work failed; the command line prints it and exits with status 1."""


class ImageError(ValueError):
    """These bytes are no image that can be used; the message is the reason, for a row of a table."""


@contextmanager
def faults_end_the_work() -> Iterator[None]:
    """Turn what a disk or a network refuses, again and again, into one line.

    Raises:
        WorkError: instead of an OSError.
    """
    try:
        yield
    except OSError as error:
        raise WorkError(one_line(error)) from error


def one_line(error: Exception) -> str:
    """Say an error in one line of at most 200 characters."""
    return (" ".join(str(error).split()) or type(error).__name__)[:200]
