"""The ways in which Overlay says no."""


class RequestError(ValueError):
    """The request was wrong: nothing was written, and the message says in one line what to change.

    The command line prints it after the verb's name and exits with status 2.
    """


class WorkError(RuntimeError):
    """The request was right but the work failed; the command line prints it and exits with status 1."""


class ImageError(ValueError):
    """These bytes are no image that can be used; the message is the reason, for a row of a table."""
