import io
import json
import re
import sys
from pathlib import Path

import pytest

from overlay.storage.filenames import LOG_FILE
from overlay.storage.path import StoragePath
from pipelines.runtime.command_log import command_log, log_into
from pipelines.runtime.progress import progress_meter

TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"


def test_all_lines_are_in_the_log_with_their_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / LOG_FILE).write_text("of an earlier command\n")
    with command_log("predict", "text"):
        print("before the folder was there")
        log_into(tmp_path)
        print("wrong:", 3, file=sys.stderr)
        with progress_meter("drawing", 2) as meter:
            meter.advance(2)
        print("\x1b[31mred\x1b[0m", end="")
    shown = capsys.readouterr()
    assert shown.out == "before the folder was there\n\x1b[31mred\x1b[0m\n"
    assert re.fullmatch(rf"wrong: 3\n{TIME} drawing: 2 of 2 images in .*\n", shown.err)
    stored = (tmp_path / LOG_FILE).read_text().splitlines()
    assert stored[0] == "of an earlier command"
    assert all(re.match(rf"{TIME} ", line) for line in stored[1:])
    lines = [line[21:] for line in stored[1:]]
    assert lines[:2] + lines[3:] == ["before the folder was there", "wrong: 3", "red"]
    assert lines[2].startswith("drawing: 2 of 2 images in ")


def test_lines_are_json_objects(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with command_log("train", "json"):
        log_into(tmp_path)
        print("epoch 1\n\nepoch 2")
        with progress_meter("training", 4, "images") as meter:
            meter.advance(4, loss=0.5)
    shown = capsys.readouterr()
    said = [json.loads(line) for line in shown.out.splitlines()]
    assert [(line["verb"], line["event"], line["message"]) for line in said] == [
        ("train", "message", "epoch 1"),
        ("train", "message", "epoch 2"),
    ]
    (progress,) = [json.loads(line) for line in shown.err.splitlines()]
    assert {name: progress[name] for name in ("event", "stage", "done", "total", "unit", "loss")} == {
        "event": "progress",
        "stage": "training",
        "done": 4,
        "total": 4,
        "unit": "images",
        "loss": 0.5,
    }
    assert (tmp_path / LOG_FILE).read_text() == shown.out + shown.err


def test_lines_above_a_bar_are_recorded_and_the_bar_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setattr(sys, "stderr", screen)
    with command_log("train", "text"):
        log_into(tmp_path)
        with progress_meter("training", 4) as meter:
            meter.advance(2)
            print("epoch 1")
            meter.advance(2)
        print("done")
    assert screen.getvalue().endswith("done\n")
    assert "━" in screen.getvalue()
    assert "epoch 1" in screen.getvalue()
    lines = [line[21:] for line in (tmp_path / LOG_FILE).read_text().splitlines()]
    assert lines[0] == "epoch 1"
    assert lines[1].startswith("training: 4 of 4 images in ")
    assert lines[2:] == ["done"]


def test_a_folder_in_a_bucket_gets_the_log_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    uploaded: list[tuple[str, str]] = []
    monkeypatch.setattr(StoragePath, "in_bucket", True)
    monkeypatch.setattr(StoragePath, "is_file", lambda _: True)
    monkeypatch.setattr(StoragePath, "read_bytes", lambda _: b"before\n")
    monkeypatch.setattr(StoragePath, "upload", lambda self, file: uploaded.append((self.text, file.read_text())))
    with command_log("predict", "text"):
        log_into(StoragePath("s3://bucket/out"))
        print("5 images")
        assert uploaded == []
    ((place, text),) = uploaded
    assert place == f"s3://bucket/out/{LOG_FILE}"
    assert re.fullmatch(rf"before\n{TIME} 5 images\n", text)


def test_a_logger_that_keeps_the_stream_prints_after_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with command_log("prepare", "text"):
        log_into(tmp_path)
        kept = sys.stderr
    print("the last word of a library", file=kept)
    assert capsys.readouterr().err == "the last word of a library\n"
    assert (tmp_path / LOG_FILE).read_text() == ""


def test_without_a_log_nothing_is_written(tmp_path: Path) -> None:
    log_into(tmp_path)
    print("x")
    assert list(tmp_path.iterdir()) == []
