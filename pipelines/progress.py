"""Progress of a job: a bar on a terminal, and in a job's log a plain line every half minute."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

PLAIN_SECONDS = 30.0


class Meter:
    """Counts what is done and shows it; made by `progress`."""

    def __init__(self, description: str, total: int, unit: str, bar: Progress | None) -> None:
        self._description, self._total, self._unit, self._bar = description, total, unit, bar
        self._task = bar.add_task(description, total=total, extra="") if bar else None
        self._done = 0
        self._fields: dict[str, float | str] = {}
        self._started = self._shown = time.monotonic()

    def advance(self, n: int = 1, **fields: float | str) -> None:
        """Count ``n`` more as done; ``fields``, such as a loss, stand beside the count until they change."""
        self._done += n
        self._fields |= fields
        if self._bar and self._task is not None:
            self._bar.update(self._task, completed=self._done, extra=self._extra())
        elif time.monotonic() - self._shown >= PLAIN_SECONDS:
            self.print()

    def print(self) -> None:
        """Print where the job is as one line on stderr."""
        self._shown = time.monotonic()
        count = f"{self._description}: {self._done} of {self._total} {self._unit}"
        extra = f", {self._extra()}" if self._done else ""
        print(f"{count} in {self._shown - self._started:.1f} s{extra}", file=sys.stderr, flush=True)

    def _extra(self) -> str:
        rate = self._done / max(time.monotonic() - self._started, 1e-9)
        fields = [
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in self._fields.items()
        ]
        return ", ".join([f"{rate:.1f} {self._unit}/s", *fields])


@contextmanager
def progress(description: str, total: int, unit: str = "images") -> Iterator[Meter]:
    """Show on stderr how far a job is and how fast since it began; where it ends well, one plain line says so."""
    console = Console(stderr=True)
    if console.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, TextColumn("{task.fields[extra]}"), console=console, transient=True) as bar:
            meter = Meter(description, total, unit, bar)
            yield meter
    else:
        meter = Meter(description, total, unit, None)
        yield meter
    meter.print()
