"""Progress of a job: a bar on a terminal, or a line of text every 30 s in a log."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import timedelta

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pipelines.runtime.command_log import LogField, bar_console, print_progress, recorded_above
from pipelines.runtime.silence import SilenceWatch, report_silence

PLAIN_SECONDS = 30.0
"""seconds between lines in a log"""
_SLOW = 0.2
"""units a second, below which seconds a unit say more"""


class ProgressMeter:
    """Counter that shows its progress; made by `progress_meter`."""

    def __init__(self, description: str, total: int | None, unit: str, done: int, bar: Progress | None) -> None:
        self._description, self._total, self._unit, self._bar = description, total, unit, bar
        self._task = bar.add_task(description, total=total, completed=done, extra="") if bar else None
        self._before = self._done = done
        self._fields: dict[str, float | str] = {}
        self.silence = SilenceWatch(description, "progress", self._print_beside if bar else print_progress)
        self._started = self._shown = self.silence.last

    def advance(self, n: int = 1, **fields: float | str) -> None:
        """Add ``n`` to the count; ``fields``, such as a loss, are shown beside it until they change."""
        self._done += n
        now = time.monotonic()
        if n:
            self.silence.reset(now)
        self._fields |= fields
        if self._bar and self._task is not None:
            self._bar.update(self._task, completed=self._done, extra=self._extra())
        elif now - self._shown >= PLAIN_SECONDS:
            self.print()

    def advance_to(self, done: int) -> None:
        """Set the count to ``done``."""
        self.advance(done - self._done)

    def start(self) -> None:
        """Restart the clock and the rate, once start-up is over."""
        self._before, self._started = self._done, time.monotonic()

    def print(self) -> None:
        """Print the progress as one line on stderr."""
        self._shown = time.monotonic()
        of_all = "" if self._total is None else f" of {self._total}"
        extra = f", {self._extra()}" if self._done > self._before else ""
        left = f", {self._left()} left" if extra and self._total is not None and self._done < self._total else ""
        spent = f"{self._shown - self._started:.1f} s"
        line = f"{self._description}: {self._done}{of_all} {self._unit} in {spent}{extra}{left}"
        counts: dict[str, LogField] = {
            "stage": self._description,
            "done": self._done,
            "total": self._total,
            "unit": self._unit,
        }
        print_progress(line, **counts, rate=round(self._rate(), 3), **self._fields)

    def _print_beside(self, line: str) -> None:
        """Print a line above the bar."""
        if self._bar:
            self._bar.console.print(line, markup=False, highlight=False)

    def _left(self) -> str:
        """Return the remaining time at the current rate, as h:mm:ss."""
        seconds = ((self._total or 0) - self._done) / self._rate()
        return str(timedelta(seconds=round(seconds)))

    def _rate(self) -> float:
        return (self._done - self._before) / max(time.monotonic() - self._started, 1e-9)

    def _extra(self) -> str:
        fields = [
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in self._fields.items()
        ]
        rate = self._rate()
        shown = f"{rate:.1f} {self._unit}/s" if rate >= _SLOW or not rate else f"{1 / rate:.0f} s each"
        return ", ".join([shown, *fields])


@contextmanager
def progress_meter(
    description: str, total: int | None, unit: str = "images", done: int = 0, *, watched: bool = True
) -> Iterator[ProgressMeter]:
    """Yield a meter that shows progress and rate on stderr; without an error, one line is printed at the end.

    ``total`` is None where it is unknown; ``done`` was done by an earlier run, and does not count for the rate. While
    it is ``watched``, 30 seconds without progress give a line on what is pending on the cluster.
    """
    if (console := bar_console()) is not None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        extra = TextColumn("{task.fields[extra]}", markup=False)
        with Progress(*columns, extra, console=console, transient=True) as bar, recorded_above(bar):
            meter = ProgressMeter(description, total, unit, done, bar)
            with report_silence(meter.silence) if watched else nullcontext():
                yield meter
    else:
        meter = ProgressMeter(description, total, unit, done, None)
        with report_silence(meter.silence) if watched else nullcontext():
            yield meter
    meter.print()
