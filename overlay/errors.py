"""Exception types and exit statuses, and error messages in one line."""

import errno
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum


class RequestError(ValueError):
    """Invalid request: nothing was written, and the message says in one line what to change.

    The command line prints it after the verb's name and exits with status 2.
    """


class WorkError(RuntimeError):
    """Failure of a valid request; the command line prints its message and exits with status 1."""


class DiskFullError(OSError):
    """A disk or a quota is full; the message names the folder and the bytes that are missing."""

    def __init__(self, message: str) -> None:
        super().__init__(errno.ENOSPC, message)

    def __str__(self) -> str:
        return str(self.args[1])

    def __reduce__(self) -> tuple[type["DiskFullError"], tuple[str]]:
        return DiskFullError, (str(self),)


class Interrupted(KeyboardInterrupt):
    """SIGINT or SIGTERM; the command line exits with status 130 or 143."""

    def __init__(self, number: int, give_time: Callable[[float], None]) -> None:
        super().__init__(f"interrupted by {signal.Signals(number).name}")
        self.status = 128 + number
        self.give_time = give_time
        """call it with the seconds that saving may take, from now; else the process ends in 10 s"""


class ErrorKind(StrEnum):
    """Kind of error of an input: the column ``error_kind`` of predictions and of ``rejected.parquet``."""

    DAMAGED = "damaged"
    """its bytes are not an image that can be decoded"""
    UNREADABLE = "unreadable"
    """its bytes could not be read (network, disk, permission, not there), which another attempt may not have"""
    REFUSED = "refused"
    """it is no input by the rules: a name that no file can have, a pipe, a link in an archive, a mask without image"""
    CRASHED = "crashed"
    """the decoder died on it, or the model gave no number for it"""
    TOO_LARGE = "too_large"
    """it exceeds a limit on bytes, pixels, memory or time"""


class Reason(str):
    """Reason why an input can't be used, one line of text, with the kind of error."""

    kind: ErrorKind

    def __new__(cls, text: str, kind: ErrorKind) -> "Reason":  # noqa: D102
        reason = super().__new__(cls, text)
        reason.kind = kind
        return reason

    def __getnewargs__(self) -> tuple[str, ErrorKind]:  # type: ignore[override]  # that of str has one argument
        return str(self), self.kind


class InputError(ValueError):
    """Input that can't be used; the message is the reason, for a row of a table."""

    def __init__(self, reason: str, kind: ErrorKind = ErrorKind.DAMAGED) -> None:
        super().__init__(reason)
        self.kind = kind

    @property
    def reason(self) -> Reason:
        """The message with the kind of error."""
        return Reason(str(self), self.kind)


class ImageError(InputError):
    """Image that can't be used."""


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


def interruption_status(interrupt: KeyboardInterrupt) -> int:
    """Return the exit status after an interruption, as a shell would give it."""
    return interrupt.status if isinstance(interrupt, Interrupted) else 130


@contextmanager
def saved_if_interrupted(describe: Callable[[], str]) -> Iterator[None]:
    """Add to an interruption what of the work is saved, as ``describe`` returns it: its first note is shown."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        interrupt.add_note(describe())
        raise


def one_line(error: BaseException) -> str:
    """Return an error's message in one line; without one, the name of its type.

    A message of another library is cut at 200 characters; our own say at their end what to do, and are whole.
    """
    said = " ".join(str(error).split()) or type(error).__name__
    return said if isinstance(error, RequestError | WorkError | DiskFullError) else said[:200]
