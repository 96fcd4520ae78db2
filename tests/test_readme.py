"""The documents' commands: those of the README's own walk-through are run on phantoms, all others are parsed."""

import re
import shlex
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.commands import VERBS, command_lines, main, parse_line

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = sorted({line for file in DOCUMENTS for line in command_lines(file.read_text())})
PREPARE = "overlay prepare Dataset_BUSI_with_GT --out dataset"
TRAIN = "overlay train dataset --out run"
PREDICT = "overlay predict run more-images/ --out predictions"
EXPORT = "overlay export run --format onnx"
# What makes the training short; the documents leave its options at their defaults.
TINY = " --model.arch resnet18 --model.weights none --input.size 32 --train.epochs 1 --tracking.mode disabled"


def table_files(text: str) -> list[str]:
    """Return the names in the first column of the table of files that a run leaves."""
    rows = re.findall(r"^\| (`.*?) \|", text, re.MULTILINE)
    return [name for row in rows for name in re.findall(r"`([^`]+)`", row)]


def test_command_lines_come_out_of_blocks_and_spans() -> None:
    text = """Prose of overlay prepare, and `overlay
submit`, and `overlay.load_model("run")`.

    pip install uv && uv run overlay demo
    find a -name '*.png' | A_B=1 overlay predict m - --out o | tee log

```
overlay train d --out 'o p'
```
```python
from overlay import load_model
```
"""
    assert command_lines(text) == [
        "overlay demo",
        "overlay predict m - --out o",
        "overlay submit",
        "overlay train d --out 'o p'",
    ]


def test_the_walk_through_stands_in_the_readme() -> None:
    assert {PREPARE, TRAIN, PREDICT, EXPORT} <= set(command_lines(README))
    assert {line for line in COMMANDS if "..." in line} == {"overlay train ..."}  # these are not parsed below


@pytest.mark.parametrize("line", [line for line in COMMANDS if "..." not in line])
def test_every_command_of_the_documents_is_understood(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    _, verb, *words = shlex.split(line)
    if not words:
        assert verb in VERBS
    elif words == ["--help"]:
        assert main([verb, *words]) == 0
        assert capsys.readouterr().out.startswith(f"usage: overlay {verb} ")
    else:
        assert isinstance(parse_line(line), tuple(VERBS.values()))


@pytest.mark.slow
def test_the_readme_s_commands_do_what_it_says(
    ray_session: None,
    phantoms: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(phantoms, "Dataset_BUSI_with_GT")
    shutil.copytree(phantoms / "benign", "more-images")
    for line in (PREPARE, TRAIN + TINY, PREDICT, EXPORT):
        assert main(shlex.split(line)[1:]) == 0, line

    assert [name for name in table_files(README) if not Path("run", name).exists()] == []
    assert pq.read_table("run/history.parquet")["epoch"].to_pylist() == [1]
    rows = pq.read_table("predictions/predictions").to_pylist()
    assert [row["status"] for row in rows] == ["ok"] * 12
    assert {row["label"] for row in rows} <= {"benign", "malignant", "normal"}

    (snippet,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert "torchvision.models.resnet101(" in snippet
    capsys.readouterr()
    exec(snippet.replace("resnet101", "resnet18"), {})
    assert capsys.readouterr().out == "('benign', 'malignant', 'normal') 32\n"

    import onnxruntime

    (pixels,) = onnxruntime.InferenceSession("run/Resnet_fineTuning.onnx").get_inputs()
    assert (pixels.name, pixels.shape[1:]) == ("pixels", [32, 32, 3])
