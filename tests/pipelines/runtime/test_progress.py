import re

import pytest

from pipelines.runtime import progress as module
from pipelines.runtime import silence
from pipelines.runtime.progress import progress_meter


def test_ends_with_one_plain_line(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_meter("drawing", 3) as meter:
        meter.advance(2, loss=0.123456)
        meter.advance(rejected="1")
    err = capsys.readouterr().err
    assert re.fullmatch(r"drawing: 3 of 3 images in \d+\.\d s, [\d.]+ images/s, loss 0\.1235, rejected 1\n", err)


def test_a_log_gets_a_line_now_and_then(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PLAIN_SECONDS", 0.0)
    with progress_meter("training", 2, unit="steps") as meter:
        meter.advance()
    assert [line.split(" in ")[0] for line in capsys.readouterr().err.splitlines()] == ["training: 1 of 2 steps"] * 2


def test_the_speed_counts_from_the_start(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([10.0, 20.0, 30.0])
    monkeypatch.setattr("time.monotonic", lambda: next(now, 35.0))
    with progress_meter("training", 100) as meter:
        meter.advance(10)
        meter.start()
        meter.advance(50)
    assert capsys.readouterr().err == "training: 60 of 100 images in 5.0 s, 10.0 images/s, 0:00:04 left\n"


def test_slow_units_are_shown_in_seconds_each(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = iter([0.0])
    monkeypatch.setattr("time.monotonic", lambda: next(now, 50.0))
    with progress_meter("training", 8, "epochs") as meter:
        meter.advance(2)
    line = "training: 2 of 8 epochs in 50.0 s, 25 s each, 0:02:30 left"
    assert capsys.readouterr().err.splitlines() == [line, line]


def test_a_failure_has_no_last_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError), progress_meter("drawing", 3):
        raise ValueError
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_bar(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    with progress_meter("drawing", 3) as meter:
        meter.advance(3, loss=1.0)
    err = capsys.readouterr().err
    assert "━" in err
    assert "3/3" in err


@pytest.mark.parametrize("terminal", [False, True])
def test_silence_is_reported_beside_the_progress(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(silence, "describe_pending", lambda: "pending: a task")
    now = [0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    with progress_meter("drawing", 3, watched=False) as meter:
        now[0] = 31
        meter.silence.report()
        meter.advance()
        now[0] = 60
        meter.silence.report()
    assert capsys.readouterr().err.count("drawing: no progress for 31 s; pending: a task") == 1
