"""Silence of a job: when a line is due, and who prints it."""

import threading

import pytest

from pipelines.runtime import silence
from pipelines.runtime.silence import SilenceWatch, report_silence


def test_silence_is_reported_at_growing_distances(monkeypatch: pytest.MonkeyPatch) -> None:
    now, lines = [0], list[str]()
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr(silence, "describe_pending", lambda: "pending: a task")
    watch = SilenceWatch("drawing", print_line=lines.append)
    for now[0] in range(1, 100):
        watch.report()
    watch.reset(99)
    for now[0] in range(100, 131):
        watch.report()
    assert lines == [f"drawing: no result for {seconds} s; pending: a task" for seconds in (30, 60, 30)]


def test_a_thread_reports_the_silence(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(silence, "_WATCH_SECONDS", 0.01)
    monkeypatch.setattr(silence, "QUIET_SECONDS", 0.0)
    reported = threading.Event()
    monkeypatch.setattr(silence, "describe_pending", reported.set)
    with report_silence(SilenceWatch("drawing")):
        assert reported.wait(30)
    assert "drawing: no result for 0 s" in capsys.readouterr().err
