"""Log of a command: every line that it prints, with its time, in a file of its output folder; or as JSON lines.

The lines that a command prints are its log, so there is one wording for both: streams in place of `sys.stdout` and
`sys.stderr` pass each line on and record it. A folder can be named once it exists; what came before is added then.
"""

import json
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from overlay.config import LogFormat
from overlay.storage.atomic import write_text_atomically
from overlay.storage.filenames import LOG_FILE
from overlay.storage.path import StoragePath

if TYPE_CHECKING:  # workers import this module, too, and only the driver shows bars
    from rich.console import Console
    from rich.progress import Progress

LogField = float | int | str | None
_STYLE = re.compile(r"\x1b\[[0-9;]*m")
_MOST_LINES = 100_000
"""kept in memory for a folder in a bucket, whose object is written at the end; later ones are left out"""
_current: "list[CommandLog]" = []


class CommandLog:
    """Lines of one command, on their way to the screen and to the files."""

    def __init__(self, verb: str, form: LogFormat) -> None:
        self._verb, self._form = verb, form
        self._lines: list[str] = []
        self._files: list[TextIO] = []
        self._buckets: list[StoragePath] = []

    @property
    def as_json(self) -> bool:
        """Whether lines are JSON objects."""
        return self._form == "json"

    def record(self, message: str, event: str = "message", **fields: LogField) -> str:
        """Record a line in the files, and return it as the screen shows it, without an end."""
        time = _now()
        stored, shown = f"{time} {message}", message
        if self.as_json:
            known = {"time": time, "verb": self._verb, "event": event, "message": message}
            stored = shown = json.dumps(known | fields, ensure_ascii=False)
        if len(self._lines) < _MOST_LINES:
            self._lines.append(stored)
        for file in self._files:
            with suppress(OSError):  # a full disk must not hide what ended the command
                print(stored, file=file, flush=True)
        return shown

    def add_folder(self, folder: StoragePath) -> None:
        """Append all lines, those before and those to come, to the log file of a folder."""
        if folder.in_bucket:
            self._buckets.append(folder)
            return
        with suppress(OSError):
            file = Path(folder.text, LOG_FILE).open("a", encoding="utf-8")  # noqa: SIM115 - until `close`
            self._files.append(file)
            file.writelines(f"{line}\n" for line in self._lines)

    def close(self) -> None:
        """Close the files, and upload the objects after what they hold already."""
        while self._files:  # a logger may print through this process's streams until it ends
            with suppress(OSError):
                self._files.pop().close()
        for folder in self._buckets:
            with suppress(OSError):
                _append_object(folder / LOG_FILE, self._lines)


class LoggedStream:
    """Text stream in place of a standard one: lines are recorded, and shown as the log's format has them."""

    def __init__(self, stream: TextIO, log: CommandLog) -> None:
        self.stream, self.log = stream, log
        self._started = threading.local()  # `print` writes a line and its end one after the other

    def write(self, text: str) -> int:
        """Show and record the lines that are complete."""
        *lines, self._started.line = (self._start_of_line + text).split("\n")
        for line in lines:
            if line.strip() or not self.log.as_json:
                shown = self.log.record(_STYLE.sub("", line))
                self.show(shown if self.log.as_json else line)
        return len(text)

    def show(self, line: str) -> None:
        """Show a line that is recorded already."""
        self.stream.write(f"{line}\n")
        self.stream.flush()

    def end_line(self) -> None:
        """Show what has no end of line yet."""
        if self._start_of_line:
            self.write("\n")

    @property
    def _start_of_line(self) -> str:
        return getattr(self._started, "line", "")

    def __getattr__(self, name: str) -> object:
        return getattr(self.stream, name)


@contextmanager
def command_log(verb: str, form: LogFormat) -> Iterator[None]:
    """Log what the block prints."""
    log = CommandLog(verb, form)
    streams = [LoggedStream(stream, log) for stream in (sys.stdout, sys.stderr)]
    with ExitStack() as stack:
        stack.enter_context(redirect_stdout(streams[0]))  # type: ignore[type-var]  # a text stream, as print needs it
        stack.enter_context(redirect_stderr(streams[1]))  # type: ignore[type-var]
        _current.append(log)
        try:
            yield
        finally:
            _current.remove(log)
            for stream in streams:
                stream.end_line()
            log.close()


def log_into(folder: Path | StoragePath) -> None:
    """Append this command's lines to the log file of a folder, which exists; does nothing where there is no log."""
    if _current:
        _current[-1].add_folder(StoragePath.of(folder))


def print_progress(line: str, **fields: LogField) -> None:
    """Print a line of progress on stderr: with the time, where that is no terminal; as JSON with its fields."""
    stream = _logged(sys.stderr)
    if stream is None:
        print(line, file=sys.stderr, flush=True)
        return
    shown = stream.log.record(line, "progress", **fields)
    stream.show(shown if stream.log.as_json or stream.stream.isatty() else f"{_now()} {line}")


def bar_console() -> "Console | None":
    """Return the console for a progress bar, which is no part of a log; None without a terminal, or for JSON lines."""
    from rich.console import Console

    stream = _logged(sys.stderr)
    if stream is not None and stream.log.as_json:
        return None
    console = Console(stderr=True) if stream is None else Console(file=stream.stream)
    return console if console.is_terminal else None


@contextmanager
def recorded_above(bar: "Progress") -> Iterator[None]:
    """Record lines that are printed while a bar is shown, which rich prints above it."""
    from rich.file_proxy import FileProxy

    proxies = sys.stdout, sys.stderr
    found = [_logged(proxy.rich_proxied_file) for proxy in proxies if isinstance(proxy, FileProxy)]
    streams = [stream for stream in found if stream is not None]
    if len(streams) < len(proxies):
        yield
        return
    own = [stream.stream for stream in streams]
    sys.stdout, sys.stderr = streams
    for stream in streams:
        stream.stream = FileProxy(bar.console, stream.stream)  # type: ignore[assignment]
    try:
        yield
    finally:
        sys.stdout, sys.stderr = proxies  # rich puts back what was there before it
        for stream, before in zip(streams, own, strict=True):
            stream.stream = before


def _logged(stream: object) -> LoggedStream | None:
    return stream if isinstance(stream, LoggedStream) else None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _append_object(place: StoragePath, lines: list[str]) -> None:
    before = place.read_bytes().decode() if place.is_file() else ""
    write_text_atomically(place, before + "".join(f"{line}\n" for line in lines))
