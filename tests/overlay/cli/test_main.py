"""Command-line entry point: exit statuses, one line for a wrong request, nothing heavy imported before it is needed."""

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from unittest.mock import Mock

import pytest

from cluster.submit import Submission
from overlay.cli import main
from overlay.cli.verbs import VERBS
from overlay.config import Demo
from overlay.errors import RequestError, WorkError


@pytest.fixture
def demo(monkeypatch: pytest.MonkeyPatch) -> Mock:
    """Stands for the work of `overlay demo`."""
    module = ModuleType("pipelines.demo")
    run = Mock(return_value=None)
    module.run = run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pipelines.demo", module)
    return run


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().err.splitlines()


def test_help_names_each_verb_with_its_purpose(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["--help"]) == 0
    printed = capsys.readouterr().out
    for verb, config in VERBS.items():
        assert f"\n  {verb} " in printed
        assert str(config.__doc__).splitlines()[0] in printed


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["train", "--help"], ["train", "d", "--print_config"]])
def test_nothing_heavy_is_imported_before_the_work(words: list[str]) -> None:
    program = (
        "import sys; from overlay.cli.main import main; status = main(sys.argv[1:]);"
        "print({'ray', 'torch', 'torchvision', 'numpy', 'pyarrow', 'PIL', 'pipelines', 'cluster'} & set(sys.modules));"
        "sys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"
    assert done.stderr == ""


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["trian"], []])
def test_the_parser_is_imported_for_a_verb_only(words: list[str]) -> None:
    """jsonargparse, YAML and what they import take longer than all else that --help needs."""
    program = (
        "import sys; from overlay.cli.main import main; main(sys.argv[1:]);"
        "print({'jsonargparse', 'yaml', 'socket', 'urllib', 'overlay.cli.parser'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"


def test_the_module_runs_as_a_program() -> None:
    done = subprocess.run([sys.executable, "-m", "overlay", "trian"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "overlay: there is no verb 'trian'; did you mean train?; overlay --help lists the verbs\n"


def test_no_verb_is_a_wrong_request(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main([]) == 2
    assert lines(capsys) == ["overlay: no verb given; overlay --help lists the verbs"]


def test_the_work_gets_the_configuration(demo: Mock) -> None:
    assert main.main(["demo", "--out", "o", "--seed=3"]) == 0
    demo.assert_called_once_with(Demo(out="o", seed=3))


def test_a_wrong_option_does_not_reach_the_work(demo: Mock, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["demo", "--sed", "3"]) == 2
    assert lines(capsys) == ["overlay demo: there is no option --sed; did you mean seed?"]
    demo.assert_not_called()


class TaskError(RequestError):
    """What Ray makes of a RequestError in a task: of both classes, with the remote traceback as its text."""

    cause = RequestError("wrong there")


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (RequestError("--out is\nnot empty"), 2, "overlay demo: --out is not empty"),
        (WorkError("the disk is full"), 1, "overlay demo: the disk is full"),
        (TaskError("Traceback\n  lots"), 2, "overlay demo: wrong there"),
        (KeyboardInterrupt(), 130, "overlay demo: interrupted; what was saved stays; the same command goes on"),
    ],
)
def test_a_known_failure_is_one_line(
    demo: Mock, capsys: pytest.CaptureFixture[str], error: BaseException, status: int, line: str
) -> None:
    demo.side_effect = error
    assert main.main(["demo"]) == status
    assert lines(capsys) == [line]


def test_an_unknown_failure_shows_its_traceback(demo: Mock, capsys: pytest.CaptureFixture[str]) -> None:
    demo.side_effect = KeyError("lesion")
    assert main.main(["demo"]) == 1
    shown = lines(capsys)
    assert shown[0] == "Traceback (most recent call last):"
    assert shown[-2:] == [
        "KeyError: 'lesion'",
        "overlay demo: failed with KeyError; please report it with the lines above",
    ]


@pytest.fixture
def submitted(monkeypatch: pytest.MonkeyPatch) -> Mock:
    """Stands for the cluster that a job is sent to; its job ends with status 7."""
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", os.devnull)
    submit = Mock(return_value=7)
    monkeypatch.setattr("cluster.submit.submit", submit)
    return submit


def test_a_job_is_sent_whole_and_its_status_returned(submitted: Mock, tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("train: {epochs: 3}\ntracking: {mode: offline}\n")
    words = ["train", "s3://b/d", "--config", str(file), "--out", "/shared/run", "--train.seed", "1"]
    assert main.main(["submit", "--address", "http://h:8265", "--", *words]) == 7
    expected = [
        "train",
        "s3://b/d",
        "--out=/shared/run",
        "--train.epochs=3",
        "--train.seed=1",
        "--tracking.mode=offline",
    ]
    submitted.assert_called_once_with("http://h:8265", Submission(expected))


def test_the_options_of_a_submission_reach_the_cluster(submitted: Mock) -> None:
    words = ["--name", "n", "--detach", "--driver.cpus", "1", "--driver.memory", "0.5", "--", "demo", "--out", "/o"]
    assert main.main(["submit", "--address", "h", *words]) == 7
    resources = {"entrypoint_num_cpus": 1.0, "entrypoint_memory": 2**29}
    submitted.assert_called_once_with("h", Submission(["demo", "--out=/o"], "n", True, resources))


@pytest.mark.parametrize("mode", ["auto", "disabled"])
def test_the_job_learns_of_a_key_and_not_the_key(submitted: Mock, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    assert main.main(["submit", "--address", "h", "--", "train", "/d", "--out=/r", "--tracking.mode", mode]) == 7
    (_, submission), _ = submitted.call_args
    assert submission.variables == ({"OVERLAY_KEY_ELSEWHERE": "1"} if mode == "auto" else {})


@pytest.mark.parametrize("action", ["attach", "status", "logs", "stop"])
def test_a_job_that_was_sent_is_acted_on(monkeypatch: pytest.MonkeyPatch, action: str) -> None:
    act = Mock(return_value=3)
    monkeypatch.setattr("cluster.job_client.act_on_job", act)
    assert main.main(["submit", "--address", "h:8265", f"--{action}", "job-1"]) == 3
    act.assert_called_once_with("h:8265", action, "job-1")


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ([], "no job given"),
        (["--stop", "a", "--logs", "b"], "logs and stop are given; do one of them at a time"),
        (["--stop", "a", "--", "demo"], "stop is given and a verb too"),
        (["--attach", "a", "--detach"], "attach is given; name, detach and driver are for a new job"),
        (["--status="], "status is empty; give the name of a job"),
        (["--name", "a b", "--", "demo"], "name is 'a b'; use letters, digits"),
        (["--driver.cpus", "-1", "--", "demo"], "driver.cpus is -1.0; it must be at least 0"),
    ],
)
def test_a_wrong_submission_is_refused(
    submitted: Mock, capsys: pytest.CaptureFixture[str], words: list[str], reason: str
) -> None:
    assert main.main(["submit", "--address", "h:8265", *words]) == 2
    assert lines(capsys)[0].startswith(f"overlay submit: {reason}")
    submitted.assert_not_called()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["trian", "/d"], "'trian' is no verb that can be a job; did you mean train?"),
        (["submit", "--address", "x", "--", "demo"], "'submit' is no verb that can be a job"),
        (["train", "/d", "--out", "/r", "--train.epochs", "0"], "train.epochs is 0; it must be at least 1"),
        (["train", "d", "--out", "/r"], "dataset is 'd', a relative path"),
        (["train", "/d", "--out", "/r", "--model.weights", "w.pth"], "model.weights is 'w.pth', a relative path"),
        (["predict", "/m", "/a", "b", "--out", "/o"], "inputs is 'b', a relative path"),
        (["prepare", "/a", "../b", "--out", "/o"], "sources is '../b', a relative path"),
        (["prepare", "--check", "d"], "check is 'd', a relative path"),
        (["prepare", "/a", "--out", "/o", "--split.column", "t.csv:side"], "split.column is 't.csv', a relative path"),
        (["evaluate", "run", "/d", "--out", "/o"], "model is 'run', a relative path"),
        (["demo"], "out is 'overlay-demo', a relative path"),
    ],
)
def test_a_wrong_job_is_refused_before_it_is_sent(
    submitted: Mock, capsys: pytest.CaptureFixture[str], words: list[str], reason: str
) -> None:
    assert main.main(["submit", "--address", "http://h:8265", "--", *words]) == 2
    (line,) = lines(capsys)
    assert line.startswith(f"overlay submit: {reason}")
    submitted.assert_not_called()


def test_a_bucket_is_refused_by_the_type_of_the_option(
    submitted: Mock, demo: Mock, capsys: pytest.CaptureFixture[str]
) -> None:
    reason = "out is 's3://b/demo', but it can't be in a bucket; give a path on a disk"
    assert main.main(["demo", "--out", "s3://b/demo"]) == 2
    assert main.main(["submit", "--address", "http://h:8265", "--", "demo", "--out", "s3://b/demo"]) == 2
    assert lines(capsys) == [f"overlay demo: {reason}", f"overlay submit: {reason}"]
    submitted.assert_not_called()
    demo.assert_not_called()


@pytest.mark.parametrize(("unreadable", "status"), [(0, 0), (2, 3)])
def test_inputs_that_could_not_be_read_are_status_3(demo: Mock, unreadable: int, status: int) -> None:
    demo.return_value = Mock(unreadable=unreadable)
    assert main.main(["demo"]) == status
