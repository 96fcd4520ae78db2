"""The presets of configs/ are read by the program's own parser, and hold what their comments say."""

from dataclasses import asdict
from pathlib import Path

import pytest

from overlay.config import Train
from overlay.config.common import dotted
from overlay.errors import RequestError
from tests.commands import commented_lines, parse, parse_line

ROOT = Path(__file__).parents[1]
PRESETS = {
    "busi-resnet101": {
        "optimizer.backbone_lr": 1e-4,
        "loss.class_weights": "balanced",
        "early_stopping.metric": "val_macro_f1",
        "early_stopping.patience": 10,
        "train.epochs": 50,
    },
    "elastic": {
        "model.freeze_norm": True,
        "train.workers": "2..8",
        "train.batch_size": 64,
        "train.checkpoint_steps": 50,
    },
    "frozen-backbone": {
        "model.freeze": "backbone",
        "optimizer.lr": 1e-3,
        "optimizer.weight_decay": 1e-3,
        "early_stopping.patience": 15,
        "train.epochs": 60,
    },
    "quick-cpu": {
        "input.size": 96,
        "model.arch": "resnet18",
        "optimizer.lr": 1e-3,
        "early_stopping.patience": 3,
        "train.epochs": 5,
        "train.batch_size": 16,
        "train.device": "cpu",
    },
}


def read(file: Path) -> Train:
    config = parse("train", ["d", "--out", "o", "--config", str(file)])
    assert isinstance(config, Train)
    return config


def test_each_preset_is_known() -> None:
    assert sorted(file.stem for file in (ROOT / "configs").iterdir()) == sorted(PRESETS)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_differs_from_the_defaults_as_it_says(name: str) -> None:
    defaults = dotted(asdict(Train(dataset="d", out="o")))
    preset = dotted(asdict(read(ROOT / "configs" / f"{name}.yaml")))
    assert {key: value for key, value in preset.items() if value != defaults[key]} == PRESETS[name]


@pytest.mark.parametrize("name", PRESETS)
def test_the_command_in_its_comment_uses_the_preset(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    file = ROOT / "configs" / f"{name}.yaml"
    config = [parse_line(line) for line in commented_lines(file.read_text())][-1]
    assert isinstance(config, Train)
    assert {**asdict(config), "dataset": "d", "out": "o"} == asdict(read(file))


def test_a_preset_with_an_unknown_key_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "elastic.yaml"
    file.write_text((ROOT / "configs" / "elastic.yaml").read_text().replace("workers:", "worker:"))
    with pytest.raises(RequestError) as refusal:
        read(file)
    assert str(refusal.value) == "there is no option train.worker; did you mean train.workers?"
