"""The entry point of a RayJob: which exit statuses end the retries, and what is kept of them."""

import json
import sys
from pathlib import Path

import pytest

from overlay.cli import job_entrypoint
from overlay.cli.job_entrypoint import output_of, run_job


def ends_with(monkeypatch: pytest.MonkeyPatch, status: int, message: str = "") -> None:
    def run_verb(words: list[str]) -> int:
        if message:
            print(f"warning\n{message}\n", file=sys.stderr)
        return status

    monkeypatch.setattr(job_entrypoint, "run_verb", run_verb)


@pytest.mark.parametrize(
    ("status", "returned"), [(0, 0), (2, 0), (3, 0), (1, 1), (130, 130), (143, 143)], ids=lambda code: str(code)
)
def test_what_a_new_cluster_would_not_change_is_not_retried(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, status: int, returned: int
) -> None:
    ends_with(monkeypatch, status, "overlay train: no GPU")
    assert run_job(["train", "/data", "--out", f"{tmp_path}/runs/one/"]) == returned
    stored = json.loads((tmp_path / "runs" / "one.exit.json").read_text())
    assert stored["status"] == status
    assert stored["command"] == f"overlay train /data --out {tmp_path}/runs/one/"
    assert stored["message"] == ("overlay train: no GPU" if status else "")


def test_the_status_is_printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    ends_with(monkeypatch, 2, "overlay demo: refused")
    assert run_job(["demo"]) == 0
    assert capsys.readouterr().err.splitlines() == [
        "warning",
        "overlay demo: refused",
        "",
        "overlay-job: exit status 2: the request was refused, and nothing was written",
    ]


def test_a_real_refusal_ends_with_zero(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_job(["prepare", "--no_such_option", "1", f"--out={tmp_path}/dataset"]) == 0
    stored = json.loads((tmp_path / "dataset.exit.json").read_text())
    assert (stored["status"], stored["message"]) == (2, "overlay prepare: there is no option --no_such_option")


def test_a_status_that_can_not_be_stored_does_not_change_the_exit_status(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    ends_with(monkeypatch, 1)
    assert run_job(["train", f"--out={tmp_path}/file/run"]) == 1
    assert "can't store the exit status beside" in capsys.readouterr().err
    assert run_job(["train", "--out=ftp://host/run"]) == 1
    assert "ftp://host/run is no address that can be used" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "out"),
    [
        (["train", "d", "--out", "/r"], "/r"),
        (["train", "--out=s3://b/r", "d"], "s3://b/r"),
        (["train", "d", "--out"], None),
        (["train", "d", "--out="], None),
        (["demo"], None),
    ],
)
def test_the_output_is_found_without_the_parser(words: list[str], out: str | None) -> None:
    assert output_of(words) == out
